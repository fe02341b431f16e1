"""A model repository for NVIDIA's Triton Inference Server."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.export.bundle.draft import Draft
from harness.export.bundle.signature import sizes_of
from harness.export.bundle.texts import render
from harness.export.formats.exporter import ExportError
from harness.export.program import LARGEST_BATCH

_BACKENDS = {
    "onnx": ("onnxruntime", "onnxruntime_onnx", "model.onnx"),
    "torchscript": ("pytorch", "pytorch_libtorch", "model.pt"),
}

_TYPES = {
    "bool": "TYPE_BOOL",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "bfloat16": "TYPE_BF16",
}


@dataclass(frozen=True)
class Port:
    """An input or output as a server is told of it.

    Attributes:
        name: Its name.
        dtype: Its dtype, such as ``int64``.
        dims: Its sizes, -1 for a free one.
    """

    name: str
    dtype: str
    dims: tuple[int, ...]


def write_triton(draft: Draft, format: str) -> None:
    """``triton/<name>/config.pbtxt`` with ``1/model.onnx``, or ``1/model.pt`` for TorchScript."""
    home = draft.folder / "triton" / draft.model_name
    backend, platform, filename = _BACKENDS[format]
    path = draft.copy_model(format, home / "1", filename)
    inputs, outputs = _onnx_ports(path) if format == "onnx" else _numbered_ports(draft.signature)
    batch = _largest_batch(draft.signature, [*inputs, *outputs])
    text = render(
        "config.pbtxt.j2",
        model=" ".join(draft.signature["model"].split()),
        tool=draft.tool,
        name=draft.model_name,
        platform=platform,
        backend=backend,
        max_batch_size=batch,
        tensors={"input": [_tensor(p, batch) for p in inputs], "output": [_tensor(p, batch) for p in outputs]},
    )
    (home / "config.pbtxt").write_text(text, encoding="utf-8")


def _tensor(port: Port, batch: int) -> dict[str, Any]:
    if port.dtype not in _TYPES:
        raise ExportError(f"layout 'triton': `{port.name}` is {port.dtype}, which Triton has no name for")
    return {"name": port.name, "type": _TYPES[port.dtype], "dims": port.dims[1:] if batch else port.dims}


def _largest_batch(signature: dict[str, Any], ports: Iterable[Port]) -> int:
    """Rows that Triton may put together from several requests; 0 where nobody said how many, or not every tensor has rows."""
    largest = signature["limits"].get("batch", (1, LARGEST_BATCH))[1]
    return largest if largest < LARGEST_BATCH and all(len(p.dims) > 1 and p.dims[0] == -1 for p in ports) else 0


def _onnx_ports(path: Path) -> tuple[list[Port], list[Port]]:
    """Inputs and outputs as the file has them: Triton refuses a size where the file leaves one open."""
    import onnx

    from harness.export.onnx.file import dimensions

    graph = onnx.load(path, load_external_data=False).graph

    def port(value: onnx.ValueInfoProto) -> Port:
        dims = tuple(size if isinstance(size, int) and size > 0 else -1 for size in dimensions(value))
        return Port(value.name, str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)), dims)

    return [port(value) for value in graph.input], [port(value) for value in graph.output]


def _numbered_ports(signature: dict[str, Any]) -> tuple[list[Port], list[Port]]:
    """Inputs and outputs by the names that Triton's PyTorch backend expects: ``input_ids__0``."""

    def numbered(declared: Sequence[dict[str, Any]]) -> list[Port]:
        return [Port(f"{tensor['name']}__{index}", tensor["dtype"], sizes_of(tensor)) for index, tensor in enumerate(declared)]

    return numbered(signature["inputs"]), numbered([signature["output"]])
