"""A model repository for NVIDIA's Triton Inference Server."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from harness.config import ExportConfig
from harness.export.bundle.draft import Draft
from harness.export.bundle.signature import sizes_of
from harness.export.bundle.texts import render
from harness.export.formats.exporter import ExportError, Port, make_exporter
from harness.export.program import LARGEST_BATCH

_TYPES = {
    "bool": "TYPE_BOOL",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "bfloat16": "TYPE_BF16",
}


def write_triton(draft: Draft, format: str) -> None:
    """``triton/<name>/config.pbtxt``, and the file as ``1/`` and the name that the format's backend expects."""
    home, exporter = draft.folder / "triton" / draft.model_name, make_exporter(format, ExportConfig())
    assert exporter.triton is not None
    backend, platform, filename = exporter.triton
    path = draft.copy_model(format, home / "1", filename)
    # Triton refuses a size where a file leaves one open.
    inputs, outputs = exporter.ports(path) or _numbered_ports(draft.signature)
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


def _numbered_ports(signature: dict[str, Any]) -> tuple[list[Port], list[Port]]:
    """Inputs and outputs by the names that Triton's PyTorch backend expects: ``input_ids__0``."""

    def numbered(declared: Sequence[dict[str, Any]]) -> list[Port]:
        return [Port(f"{tensor['name']}__{index}", tensor["dtype"], sizes_of(tensor)) for index, tensor in enumerate(declared)]

    return numbered(signature["inputs"]), numbered([signature["output"]])
