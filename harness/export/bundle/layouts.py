"""Folders of a bundle that servers load as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from harness.errors import did_you_mean
from harness.export.bundle.draft import Draft
from harness.export.bundle.mlflow import write_mlflow
from harness.export.bundle.triton import write_triton
from harness.export.formats.exporter import ExportError


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
    write: Callable[[Draft, str], None]


LAYOUTS = {
    "triton": Layout(
        ("onnx", "torchscript"), "a model repository: `tritonserver --model-repository=<this folder>/triton`", write_triton
    ),
    "mlflow": Layout(
        ("onnx",), "an MLflow model: `mlflow.pyfunc.load_model`, `mlflow models serve -m <this folder>/mlflow`", write_mlflow
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
        if not {*LAYOUTS[name].formats} & {*formats}:
            needed = " or ".join(LAYOUTS[name].formats)
            raise ExportError(f"layout {name!r} is made of {needed}: add it to the `formats`, which are {', '.join(formats)}")


def write_layout(name: str, draft: Draft) -> None:
    """Writes a layout into a bundle."""
    layout = LAYOUTS[name]
    layout.write(draft, next(format for format in layout.formats if format in draft.artifacts))
