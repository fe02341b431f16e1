"""Pictures of a failure: which output reads which input, as a matrix, and how far two calls are apart along the layers, as bars.

They travel as JSON in a check's ``details["plots"]``, beside distributions::

    {"kind": "matrix", "title": "...", "outputs": ["position 0"], "inputs": ["token 0", "token 1"], "reads": [[true, true]],
     "forbidden": [[false, true]]}
    {"kind": "layers", "title": "...", "caption": "...", "labels": ["embed", "blocks.0"], "values": [0.0, 0.3]}

What is not of that form is left out, as a check's details may hold anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.charts import Bar, BarChart
from harness.wording import counted, figure, joined

Cell = Literal["wrong", "reads", "unread"]
"""It is read and must not be; it is read; it is not."""

_MOST_TOLD = 8
_SMALLEST = 1e-12


@dataclass(frozen=True)
class Matrix:
    """Which output reads which input.

    Attributes:
        title: What it shows.
        outputs: A row each.
        inputs: A column each.
        cells: ``[output][input]``.
    """

    title: str
    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]

    @property
    def description(self) -> str:
        """The wrong cells in words: ``position 0 reads token 1; position 1 reads token 2``, of many the first."""
        wrong = [
            f"{output} reads {joined([name for name, cell in zip(self.inputs, row, strict=True) if cell == 'wrong'])}"
            for output, row in zip(self.outputs, self.cells, strict=True)
            if "wrong" in row
        ]
        left = len(wrong) - _MOST_TOLD
        return "; ".join(wrong[:_MOST_TOLD]) + (f"; and {counted(left, 'other')}" if left > 0 else "")


def matrices_of(details: Mapping[str, Any]) -> list[Matrix]:
    """The matrices in the details of a check."""
    return [found for found in map(_matrix, _plots(details, "matrix")) if found is not None]


def layers_of(details: Mapping[str, Any]) -> list[BarChart]:
    """The charts of divergence along the layers in the details of a check."""
    return [found for found in map(_layers, _plots(details, "layers")) if found is not None]


def reading_text(details: Mapping[str, Any]) -> str:
    """What must not be read and is, in words; empty where no matrix shows it."""
    return "; ".join(filter(None, (matrix.description for matrix in matrices_of(details))))


def _plots(details: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    plots = details.get("plots")
    return (
        [one for one in plots if isinstance(one, Mapping) and one.get("kind") == kind] if isinstance(plots, (list, tuple)) else []
    )


def _matrix(plot: Mapping[str, Any]) -> Matrix | None:
    outputs, inputs = _texts(plot.get("outputs")), _texts(plot.get("inputs"))
    reads, forbidden = plot.get("reads"), plot.get("forbidden")
    if not outputs or not inputs or not (_has_shape(reads, outputs, inputs) and _has_shape(forbidden, outputs, inputs)):
        return None
    cells = tuple(
        tuple("wrong" if read and bad else "reads" if read else "unread" for read, bad in zip(row, bads, strict=True))
        for row, bads in zip(reads, forbidden, strict=True)  # type: ignore[arg-type]
    )
    return Matrix(str(plot.get("title") or "Which output reads which input"), outputs, inputs, cells)  # type: ignore[arg-type]


def _layers(plot: Mapping[str, Any]) -> BarChart | None:
    labels, values = _texts(plot.get("labels")), plot.get("values")
    if not labels or not isinstance(values, (list, tuple)) or len(values) != len(labels):
        return None
    if not all(isinstance(value, (int, float)) and math.isfinite(value) and value >= 0 for value in values):
        return None
    longest = max(values) or 1.0
    bars = tuple(
        Bar(label, "equal" if value < _SMALLEST else f"{figure(100 * value)}%", (value / longest,), "")
        for label, value in zip(labels, values, strict=True)
    )
    first = next((label for label, value in zip(labels, values, strict=True) if value >= _SMALLEST), "")
    description = f"In the order of the calls. {f'The first that differs is {first}.' if first else 'None differs.'}"
    return BarChart(str(plot.get("title") or ""), str(plot.get("caption") or ""), description, bars)


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, (list, tuple)) else ()


def _has_shape(value: Any, outputs: Sequence[str], inputs: Sequence[str]) -> bool:
    rows = isinstance(value, (list, tuple)) and len(value) == len(outputs)
    return rows and all(isinstance(row, (list, tuple)) and len(row) == len(inputs) for row in value)
