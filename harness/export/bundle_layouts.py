"""What in a bundle is written for others to read: signature, configs, README, requirements, and the folders of Triton and MLflow."""

from __future__ import annotations

import inspect
import json
import math
import re
import shlex
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from importlib import resources
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel
from torch import Tensor, nn

from harness.errors import did_you_mean
from harness.export.artifact import Manifest, find_artifact, manifest_path
from harness.export.exporter import ExportError
from harness.export.exports import Exports
from harness.export.formats import FORMATS
from harness.export.identity import versions
from harness.export.program import LARGEST_BATCH
from harness.health.markdown import verdict
from harness.health.report import ExportHealthReport

_RUNTIMES = ("onnx", "openvino", "torchscript", "torch_export")
"""What ``inference.py`` knows, the one that needs least first."""

_PACKAGES = {
    "onnx": ("onnxruntime",),
    "torchscript": ("torch",),
    "torch_export": ("torch",),
    "pytorch": ("torch",),
    "safetensors": ("torch", "safetensors"),
}
"""What reads each format, besides NumPy."""

_TRITON_TYPES = {
    "bool": "TYPE_BOOL",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "bfloat16": "TYPE_BF16",
}


_DEPTH = 8
"""Configs nested deeper than this are stored as text."""

_HIDDEN = "***"
_LOGIN = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_SECRET = re.compile(
    r"(?:^|_)(?:password|passwd|secret|credentials?|(?:api|access|private|secret)_?key|(?:auth|access|api|hf)_token)$|^token$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Shipped:
    """A bundle under way, as far as the files for others depend on it.

    Attributes:
        folder: Where it is being written; its artifacts and golden batches are there.
        name: The name it will have.
        signature: What is in ``signature.json``.
        tool: Name and version of this project.
        created: When it was made.
        identity: Hash of what it was made from.
    """

    folder: Path
    name: str
    signature: dict[str, Any]
    tool: str
    created: str
    identity: str

    @property
    def artifacts(self) -> dict[str, dict[str, Any]]:
        """File and runtime of each format."""
        return self.signature["artifacts"]

    @property
    def model_name(self) -> str:
        """The model's name, fit for a path."""
        return re.sub(r"[^A-Za-z0-9_-]+", "_", self.signature["task"]["task_name"] or self.signature["model"])

    def size_of(self, format: str) -> int:
        """Bytes of a format's file, and of those that hold its weights."""
        found = find_artifact(self.folder / self.artifacts[format]["file"])
        return 0 if found is None else found.size

    def copy_model(self, format: str, folder: Path, filename: str) -> Path:
        """Copies the file of a format, with the files that hold its weights, into a new folder."""
        source = self.folder / self.artifacts[format]["file"]
        manifest = Manifest.read(manifest_path(source))
        assert manifest is not None
        folder.mkdir(parents=True, exist_ok=True)
        for name in manifest.files:
            shutil.copyfile(source.with_name(name), folder / (filename if name == source.name else name))
        return folder / filename


@dataclass(frozen=True)
class Layout:
    """A folder that a server loads.

    Attributes:
        formats: Formats it can be made of, the preferred one first.
        what: What it is, for the README.
        write: Writes it, made of a format.
    """

    formats: tuple[str, ...]
    what: str
    write: Callable[[Shipped, str], None]


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


def make_signature(exports: Exports, files: Mapping[str, str]) -> dict[str, Any]:
    """What a caller must know: inputs, output, and the sizes of their free axes, which have names; and the file of each format.

    Args:
        exports: The exports.
        files: Names of the formats' files.
    """
    program, task = exports.program, exports.program.task
    logits = exports.eager(program.example)
    ids = {"range": [0, task.vocab_size - 1]} if task.vocab_size else {}
    values = {"input_ids": ids, "decoder_input_ids": ids, "attention_mask": {"range": [0, 1]}}
    sizes = (
        "task_type",
        "task_name",
        "modality",
        "vocab_size",
        "max_seq_len",
        "pad_token_id",
        "image_size",
        "num_classes",
        "num_features",
    )
    return {
        "model": type(exports.subject.model).__name__,
        "task": {key: json_ready(getattr(task, key)) for key in sizes},
        "inputs": [
            {**_described(name, program.example[name], program.axes[name]), **values.get(name, {})} for name in program.fields
        ],
        "output": _described("logits", logits, program.output_axes),
        "limits": {axis: list(limits) for axis, limits in program.limits.items()},
        "artifacts": {
            format: {"file": f"artifacts/{name}", "runtime": exports.exporter(format).runs_as or format}
            for format, name in files.items()
        },
    }


def _described(name: str, tensor: Tensor, free: Mapping[int, str]) -> dict[str, Any]:
    axes = [free.get(position, size) for position, size in enumerate(tensor.shape)]
    return {"name": name, "dtype": str(tensor.dtype).removeprefix("torch."), "axes": axes}


def json_ready(value: Any, depth: int = 0) -> Any:
    """A config of whatever kind as values that JSON knows, with its passwords and keys left out."""
    if isinstance(value, Enum):
        return json_ready(value.value, depth)
    if isinstance(value, str):
        return _LOGIN.sub(_HIDDEN, value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, np.generic):
        return json_ready(value.item(), depth)
    if isinstance(value, (list, tuple, set, frozenset)):
        return [json_ready(entry, depth + 1) for entry in value]
    if isinstance(value, type) and depth:
        return f"{value.__module__}.{value.__qualname__}"
    attributes = _attributes(value) if depth < _DEPTH else None
    if attributes is None:
        return _LOGIN.sub(_HIDDEN, str(value))
    return {
        str(key): _HIDDEN if _SECRET.search(str(key)) and entry is not None else json_ready(entry, depth + 1)
        for key, entry in attributes.items()
    }


def _attributes(value: Any) -> Mapping[Any, Any] | None:
    """What a config holds by name; ``None`` of a value that is no config."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if callable(getattr(value, "to_dict", None)) and not isinstance(value, type):
        return dict(value.to_dict())
    plain = type(value).__module__ in ("builtins", "torch", "numpy") and not isinstance(value, type)
    if plain or isinstance(value, (nn.Module, Tensor, PurePath)):
        return None
    # Defaults may be attributes of the class; read without running any property.
    found = {name: inspect.getattr_static(value, name) for name in dir(value) if not name.startswith("_")}
    return {name: entry for name, entry in found.items() if not inspect.isroutine(entry) and not inspect.isdatadescriptor(entry)}


def check_layouts(names: Iterable[str], formats: Sequence[str]) -> None:
    """Makes sure that layouts exist and can be made of the formats.

    Raises:
        ExportError: One does not, or cannot.
    """
    for name in names:
        if name not in LAYOUTS:
            raise ExportError(f"no bundle layout {name!r}.{did_you_mean(name, LAYOUTS)} Valid: {', '.join(LAYOUTS)}")
        if not {*LAYOUTS[name].formats} & {*formats}:
            needed = " or ".join(LAYOUTS[name].formats)
            raise ExportError(f"layout {name!r} is made of {needed}: add it to the `formats`, which are {', '.join(formats)}")


def write_layout(name: str, shipped: Shipped) -> None:
    """Writes a layout into a bundle."""
    layout = LAYOUTS[name]
    layout.write(shipped, next(format for format in layout.formats if format in shipped.artifacts))


def inference_script() -> str:
    """``inference.py``, which is the same in every bundle of this version."""
    return resources.files("harness.export").joinpath("templates", "inference.py.txt").read_text(encoding="utf-8")


def requirements(formats: Iterable[str]) -> str:
    """A ``requirements.txt`` of what runs the formats, pinned to the versions found here."""
    lines = ["# What inference.py needs; beside NumPy, the packages of the formats in use are enough.", _pinned("numpy")]
    for format in formats:
        needed = [_pinned(package) for package in packages_of(format)]
        new = [line for line in needed if line not in lines]
        lines += [f"# {format}" + ("" if new else f": {', '.join(needed)}, as above"), *new]
    return "\n".join(lines) + "\n"


def runnable(formats: Iterable[str]) -> list[str]:
    """The formats that ``inference.py`` runs, the one that needs least first."""
    runtimes = {format: FORMATS[format].runs_as or format for format in formats if format in FORMATS}
    return sorted((f for f, runtime in runtimes.items() if runtime in _RUNTIMES), key=lambda f: (_RUNTIMES.index(runtimes[f]), f))


def packages_of(format: str) -> tuple[str, ...]:
    """The packages that read a format, besides NumPy."""
    return _PACKAGES.get(FORMATS[format].runs_as or format, FORMATS[format].packages)


def readme(shipped: Shipped, report: ExportHealthReport | None, layouts: Sequence[str]) -> str:
    """The bundle's README."""
    failed = [] if report is None else report.get_failed_checks()
    formats = [
        {
            "name": format,
            "file": artifact["file"],
            "size": f"{shipped.size_of(format) / 2**20:.2f} MiB",
            "runs_with": " and ".join(packages_of(format)),
        }
        for format, artifact in shipped.artifacts.items()
    ]
    return _render(
        "README.md.j2",
        **shipped.signature,
        tool=shipped.tool,
        created=shipped.created,
        folder=shlex.quote(shipped.name),
        formats=formats,
        runnable=runnable(shipped.artifacts),
        code=[format for format in shipped.artifacts if FORMATS[format].holds_code],
        weights=[format for format in shipped.artifacts if FORMATS[format].weights_only],
        health="The health checks were not run." if report is None else f"{verdict(report)}; see `artifacts/health_report.md`.",
        failures=[" ".join(f"{check.check_name}: {check.message}".split()) for check in failed],
        layouts=[{"path": f"{name}/", "what": LAYOUTS[name].what} for name in layouts],
    )


def _triton(shipped: Shipped, format: str) -> None:
    """``triton/<name>/config.pbtxt`` with ``1/model.onnx``, or ``1/model.pt`` for TorchScript."""
    home = shipped.folder / "triton" / shipped.model_name
    backend, platform, filename = _TRITON_BACKENDS[format]
    path = shipped.copy_model(format, home / "1", filename)
    inputs, outputs = _onnx_ports(path) if format == "onnx" else _numbered_ports(shipped.signature)
    batch = _largest_batch(shipped.signature, [*inputs, *outputs])
    text = _render(
        "config.pbtxt.j2",
        model=" ".join(shipped.signature["model"].split()),
        tool=shipped.tool,
        name=shipped.model_name,
        platform=platform,
        backend=backend,
        max_batch_size=batch,
        tensors={"input": [_triton_tensor(p, batch) for p in inputs], "output": [_triton_tensor(p, batch) for p in outputs]},
    )
    (home / "config.pbtxt").write_text(text, encoding="utf-8")


_TRITON_BACKENDS = {
    "onnx": ("onnxruntime", "onnxruntime_onnx", "model.onnx"),
    "torchscript": ("pytorch", "pytorch_libtorch", "model.pt"),
}


def _triton_tensor(port: Port, batch: int) -> dict[str, Any]:
    if port.dtype not in _TRITON_TYPES:
        raise ExportError(f"layout 'triton': `{port.name}` is {port.dtype}, which Triton has no name for")
    return {"name": port.name, "type": _TRITON_TYPES[port.dtype], "dims": port.dims[1:] if batch else port.dims}


def _largest_batch(signature: dict[str, Any], ports: Iterable[Port]) -> int:
    """Rows that Triton may put together from several requests; 0 where nobody said how many, or not every tensor has rows."""
    largest = signature["limits"].get("batch", (1, LARGEST_BATCH))[1]
    return largest if largest < LARGEST_BATCH and all(len(p.dims) > 1 and p.dims[0] == -1 for p in ports) else 0


def _onnx_ports(path: Path) -> tuple[list[Port], list[Port]]:
    """Inputs and outputs as the file has them: Triton refuses a size where the file leaves one open."""
    import onnx

    from harness.export.onnx_file import dimensions

    graph = onnx.load(path, load_external_data=False).graph

    def port(value: onnx.ValueInfoProto) -> Port:
        dims = tuple(size if isinstance(size, int) and size > 0 else -1 for size in dimensions(value))
        return Port(value.name, str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)), dims)

    return [port(value) for value in graph.input], [port(value) for value in graph.output]


def _numbered_ports(signature: dict[str, Any]) -> tuple[list[Port], list[Port]]:
    """Inputs and outputs by the names that Triton's PyTorch backend expects: ``input_ids__0``."""

    def numbered(declared: Sequence[dict[str, Any]]) -> list[Port]:
        return [Port(f"{tensor['name']}__{index}", tensor["dtype"], _dims(tensor)) for index, tensor in enumerate(declared)]

    return numbered(signature["inputs"]), numbered([signature["output"]])


def _mlflow(shipped: Shipped, format: str) -> None:
    """A model in MLflow's own format, with the flavours ``onnx`` and ``python_function``."""
    home, signature = shipped.folder / "mlflow", shipped.signature
    path = shipped.copy_model(format, home, "model.onnx")
    needed = ["mlflow", *map(_pinned, ("numpy", "onnx", "onnxruntime"))]
    facts = {"versions": versions(), "size": path.stat().st_size, "uuid": shipped.identity[:32], "created": shipped.created}
    specs = {
        side: json.dumps([_mlflow_tensor(t) for t in tensors])
        for side, tensors in (("inputs", signature["inputs"]), ("outputs", [signature["output"]]))
    }
    for name in ("MLmodel", "conda.yaml", "python_env.yaml"):
        (home / name).write_text(_render(f"{name}.j2", **facts, **specs, requirements=needed), encoding="utf-8")
    (home / "requirements.txt").write_text("\n".join(needed) + "\n", encoding="utf-8")
    with np.load(shipped.folder / "golden" / "inputs_0.npz", allow_pickle=False) as stored:
        example = {name: stored[name].tolist() for name in stored.files}
    (home / "input_example.json").write_text(json.dumps(example), encoding="utf-8")
    (home / "serving_input_example.json").write_text(json.dumps({"inputs": example}), encoding="utf-8")


def _mlflow_tensor(declared: dict[str, Any]) -> dict[str, Any]:
    spec = {"dtype": declared["dtype"], "shape": _dims(declared)}
    return {"name": declared["name"], "type": "tensor", "tensor-spec": spec}


def _dims(declared: dict[str, Any]) -> tuple[int, ...]:
    return tuple(axis if isinstance(axis, int) else -1 for axis in declared["axes"])


LAYOUTS = {
    "triton": Layout(
        ("onnx", "torchscript"), "a model repository: `tritonserver --model-repository=<this folder>/triton`", _triton
    ),
    "mlflow": Layout(
        ("onnx",), "an MLflow model: `mlflow.pyfunc.load_model`, `mlflow models serve -m <this folder>/mlflow`", _mlflow
    ),
}
"""Layouts by name."""


def _pinned(package: str) -> str:
    found = versions().get(package)
    # What follows a plus names a build, such as +cpu, that no index has.
    return f"{package}=={found.partition('+')[0]}" if found else package


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("harness.export"), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
