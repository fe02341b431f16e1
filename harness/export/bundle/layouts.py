"""Folders of a bundle that servers load as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from harness.errors import did_you_mean
from harness.export.bundle.draft import Draft
from harness.export.bundle.mlflow import write_mlflow
from harness.export.bundle.texts import runnable
from harness.export.bundle.triton import write_triton
from harness.export.formats.exporter import Exporter, ExportError, exporter_class
from harness.formats import valid_formats


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
