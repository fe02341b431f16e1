"""The texts of a bundle: its README, its inference code, and the layouts for the servers of Triton and MLflow."""

from __future__ import annotations

import inspect
import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from harness.config import ExportConfig
from harness.errors import did_you_mean
from harness.export.bundle.contract import load_arrays, outputs_in, sizes_of
from harness.export.bundle.folder import Draft
from harness.export.formats import Exporter, ExportError, Port, exporter_class, make_exporter
from harness.export.program import UNLIMITED
from harness.export.store.identity import versions
from harness.formats import formats as known_formats
from harness.formats import valid_formats
from harness.health import ExportHealthReport
from harness.health.markdown import verdict


def readme(draft: Draft, report: ExportHealthReport | None, layouts: Mapping[str, str]) -> str:
    """The bundle's README."""
    failed = [] if report is None else report.get_failed_checks()
    formats = [
        {
            "name": format,
            "file": artifact["file"],
            "size": f"{draft.size_of(format) / 2**20:.2f} MiB",
            "runs_with": " and ".join(exporter_class(format).requirements()),
        }
        for format, artifact in draft.artifacts.items()
    ]
    return render(
        "README.md.j2",
        **{"outputs": [draft.signature["output"]], "multiples": {}, **draft.signature},
        tool=draft.tool,
        created=draft.created,
        folder=shlex.quote(draft.name),
        formats=formats,
        runnable=runnable(draft.artifacts),
        code=[format for format in draft.artifacts if exporter_class(format).holds_code],
        weights=[format for format in draft.artifacts if exporter_class(format).kind == "weights"],
        health="The health checks were not run." if report is None else f"{verdict(report)}; see `health_report.md`.",
        failures=[" ".join(f"{check.check_name}: {check.message}".split()) for check in failed],
        layouts=[{"path": f"{name}/", "what": what} for name, what in layouts.items()],
    )


def inference_script(formats: Iterable[str]) -> str:
    """``inference.py``: the same in every bundle of this version, but for formats that other packages add.

    The functions that load files are those of the exporters, as they stand in their source.
    """
    text = resources.files("harness.export.bundle").joinpath("templates", "inference.py.txt").read_text(encoding="utf-8")
    own = [name for name, format in known_formats().items() if format.is_built_in()]
    exporters = [exporter_class(name) for name in dict.fromkeys([*own, *formats]) if name in known_formats()]
    loaders = {exporter.runtime(): exporter.standalone for exporter in exporters if exporter.standalone}
    functions = dict.fromkeys(function for standalone in loaders.values() for function in standalone)
    runtimes = "".join(f"    {runtime!r}: {standalone[-1].__name__},\n" for runtime, standalone in loaders.items())
    weights = [exporter.name for exporter in exporters if exporter.kind == "weights"]
    parts = {
        "# FUNCTIONS\n": "\n\n".join(inspect.getsource(function) for function in functions),
        "RUNTIMES: dict[str, Load] = {}\n": f"RUNTIMES: dict[str, Load] = {{\n{runtimes}}}\n",
        "WEIGHTS: tuple[str, ...] = ()\n": f"WEIGHTS: tuple[str, ...] = {tuple(weights)!r}\n",
    }
    for place, content in parts.items():
        text = text.replace(place, content)
    return text


def requirements(formats: Iterable[str]) -> str:
    """A ``requirements.txt`` of what runs the formats, pinned to the versions found here."""
    lines = ["# What inference.py needs; beside NumPy, the packages of the formats in use are enough.", pinned("numpy")]
    for format in formats:
        needed = [pinned(package) for package in exporter_class(format).requirements()]
        new = [line for line in needed if line not in lines]
        lines += [f"# {format}" + ("" if new else f": {', '.join(needed)}, as above"), *new]
    return "\n".join(lines) + "\n"


def runnable(formats: Iterable[str]) -> list[str]:
    """The formats that ``inference.py`` runs, the one that needs least first."""
    order = list(known_formats())
    found = [format for format in formats if format in order and exporter_class(format).standalone]
    return sorted(found, key=lambda format: ("torch" in exporter_class(format).requirements(), order.index(format)))


def pinned(package: str) -> str:
    """A package as requirements name it, with the version found here."""
    found = versions().get(package)
    # What follows a plus names a build, such as +cpu, that no index has.
    return f"{package}=={found.partition('+')[0]}" if found else package


def render(template: str, **values: Any) -> str:
    """A template filled in."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("harness.export.bundle"), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )


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
        tensors={"input": [_triton_tensor(p, batch) for p in inputs], "output": [_triton_tensor(p, batch) for p in outputs]},
    )
    (home / "config.pbtxt").write_text(text, encoding="utf-8")


def _triton_tensor(port: Port, batch: int) -> dict[str, Any]:
    if port.dtype not in _TYPES:
        raise ExportError(f"layout 'triton': `{port.name}` is {port.dtype}, which Triton has no name for")
    return {"name": port.name, "type": _TYPES[port.dtype], "dims": port.dims[1:] if batch else port.dims}


def _largest_batch(signature: dict[str, Any], ports: Iterable[Port]) -> int:
    """Rows that Triton may put together from several requests; 0 where nobody said how many, or not every tensor has rows."""
    largest = signature["limits"].get("batch", (1, UNLIMITED))[1]
    return largest if largest < UNLIMITED and all(len(p.dims) > 1 and p.dims[0] == -1 for p in ports) else 0


def _numbered_ports(signature: dict[str, Any]) -> tuple[list[Port], list[Port]]:
    """Inputs and outputs by the names that Triton's PyTorch backend expects: ``input_ids__0``."""

    def numbered(declared: Sequence[dict[str, Any]]) -> list[Port]:
        return [Port(f"{tensor['name']}__{index}", tensor["dtype"], sizes_of(tensor)) for index, tensor in enumerate(declared)]

    return numbered(signature["inputs"]), numbered(outputs_in(signature))


def write_mlflow(draft: Draft, format: str) -> None:
    """A model in MLflow's own format, with the flavour of the format and ``python_function``."""
    home, signature = draft.folder / "mlflow", draft.signature
    exporter = exporter_class(format)
    path = draft.copy_model(format, home, exporter.filename)
    needed = ["mlflow", *map(pinned, dict.fromkeys(("numpy", exporter.mlflow_flavour, *exporter.requirements())))]
    facts = {
        "versions": versions(),
        "size": path.stat().st_size,
        "uuid": draft.identity[:32],
        "created": draft.created,
        "flavour": exporter.mlflow_flavour,
        "file": path.name,
    }
    specs = {
        side: json.dumps([_mlflow_tensor(t) for t in tensors])
        for side, tensors in (("inputs", signature["inputs"]), ("outputs", outputs_in(signature)))
    }
    for name in ("MLmodel", "conda.yaml", "python_env.yaml"):
        (home / name).write_text(render(f"{name}.j2", **facts, **specs, requirements=needed), encoding="utf-8")
    (home / "requirements.txt").write_text("\n".join(needed) + "\n", encoding="utf-8")
    example = {name: array.tolist() for name, array in load_arrays(draft.folder / "golden" / "inputs_0.npz").items()}
    (home / "input_example.json").write_text(json.dumps(example), encoding="utf-8")
    (home / "serving_input_example.json").write_text(json.dumps({"inputs": example}), encoding="utf-8")


def _mlflow_tensor(declared: dict[str, Any]) -> dict[str, Any]:
    spec = {"dtype": declared["dtype"], "shape": sizes_of(declared)}
    return {"name": declared["name"], "type": "tensor", "tensor-spec": spec}


@dataclass(frozen=True)
class Layout:
    """A folder that a server loads.

    Attributes:
        takes: Whether it can be made of a format.
        what: What it is, for the README.
        write: Writes it, made of a format.
    """

    takes: Callable[[type[Exporter]], bool]
    what: str
    write: Callable[[Draft, str], None]


LAYOUTS = {
    "triton": Layout(
        lambda exporter: exporter.triton is not None,
        "a model repository: `tritonserver --model-repository=<this folder>/triton`",
        write_triton,
    ),
    "mlflow": Layout(
        lambda exporter: bool(exporter.mlflow_flavour),
        "an MLflow model: `mlflow.pyfunc.load_model`, `mlflow models serve -m <this folder>/mlflow`",
        write_mlflow,
    ),
}
"""Layouts by name."""


def check_layouts(names: Iterable[str], formats: Sequence[str]) -> None:
    """Makes sure that layouts exist and can be made of the formats.

    Raises:
        ExportError: One does not, or cannot.
    """
    for name in names:
        if name not in LAYOUTS:
            raise ExportError(f"no bundle layout {name!r}.{did_you_mean(name, LAYOUTS)} Valid: {', '.join(LAYOUTS)}")
        if not _fitting(LAYOUTS[name], formats):
            needed = " or ".join(_fitting(LAYOUTS[name], valid_formats()))
            raise ExportError(f"layout {name!r} is made of {needed}: add it to the `formats`, which are {', '.join(formats)}")


def write_layout(name: str, draft: Draft) -> None:
    """Writes a layout into a bundle."""
    layout = LAYOUTS[name]
    layout.write(draft, _fitting(layout, draft.artifacts)[0])


def _fitting(layout: Layout, formats: Iterable[str]) -> list[str]:
    """Those of some formats of which a layout can be made, the one that needs least first."""
    return [format for format in runnable(formats) if layout.takes(exporter_class(format))]
