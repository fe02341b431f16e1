"""A metric over the values of two keys."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from harness.sweeps.picture.axis import Axis, make_axis, spans_far
from harness.sweeps.picture.style import BEST, EMPTY, FAILED, FAILED_TINT, GOOD_TO_BAD, INK, PAGE, SOFT, plain_axes, plain_number
from harness.sweeps.result import SweepResult, TrialResult
from harness.wording import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

_MOST_WORDS = 160
"""Cells that are labelled, at most."""

_MOST_ROWS = 24
"""Rows that are labelled, at most."""


def draw_heat_map(figure: Figure, axes: Axes, result: SweepResult, across: str, up: str) -> None:
    """A cell for each combination, the better the darker; those without a finite metric say why.

    Args:
        figure: The picture.
        axes: Where to draw.
        result: The sweep.
        across: The key whose values stand from left to right.
        up: The key whose values stand from the bottom up.
    """
    columns, rows = make_axis(result.grid.values[across]), make_axis(result.grid.values[up])
    plain_axes(axes)
    axes.set_xlim(-0.5, len(columns.values) - 0.5)
    axes.set_ylim(-0.5, len(rows.values) - 0.5)
    _mark_values(axes, columns, rows, letters=int(figure.get_figwidth() * 10))
    colours, scale = _colours(result)
    cells = {(columns.index(trial.params[across]), rows.index(trial.params[up])): trial for trial in result.trials}
    words = len(columns.values) * len(rows.values) <= _MOST_WORDS
    for column in range(len(columns.values)):
        for row in range(len(rows.values)):
            _draw_cell(axes, result, cells.get((column, row)), (column, row), colours, scale, words)
    _draw_best(axes, result, columns, rows, across, up)
    axes.set_xlabel(shortened(across, 60), fontsize=10.5, color=INK, fontweight="bold", labelpad=8)
    axes.set_ylabel(shortened(up, 40), fontsize=10.5, color=INK, fontweight="bold", labelpad=8)
    if result.best is not None:
        _draw_scale(figure, axes, result, colours, scale)


def _draw_cell(
    axes: Axes,
    result: SweepResult,
    trial: TrialResult | None,
    place: tuple[int, int],
    colours: Colormap,
    scale: Normalize,
    words: bool,
) -> None:
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Rectangle

    value = None if trial is None else result.value(trial)
    fill = to_rgb(colours(scale(value)) if value is not None else EMPTY if trial is None else FAILED_TINT)
    corner = (place[0] - 0.5, place[1] - 0.5)
    axes.add_patch(Rectangle(corner, 1, 1, facecolor=fill, edgecolor=PAGE, linewidth=2 if words else 0.5))
    if value is None and trial is not None and not words:
        axes.plot(*place, marker="x", markersize=4, color=FAILED)
    if words:
        ink = _ink_on(fill) if value is not None else (SOFT if trial is None else FAILED)
        axes.text(*place, _said(result, trial), ha="center", va="center", fontsize=9.5, color=ink)


def _said(result: SweepResult, trial: TrialResult | None) -> str:
    if trial is None:
        return "not run"
    if trial.status == "failed":
        return "failed"
    value = trial.metrics[result.metric]
    return f"{value:#.4g}".rstrip(".") if math.isfinite(value) else str(value)


def _draw_best(axes: Axes, result: SweepResult, columns: Axis, rows: Axis, across: str, up: str) -> None:
    from matplotlib.patches import Rectangle

    if result.best is None:
        return
    column, row = columns.index(result.best.params[across]), rows.index(result.best.params[up])
    frame = (column - 0.5, row - 0.5)
    axes.add_patch(Rectangle(frame, 1, 1, fill=False, edgecolor=PAGE, linewidth=8, zorder=4, clip_on=False))
    axes.add_patch(Rectangle(frame, 1, 1, fill=False, edgecolor=BEST, linewidth=3.5, zorder=5, clip_on=False))


def _draw_scale(figure: Figure, axes: Axes, result: SweepResult, colours: Colormap, scale: Normalize) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import LogLocator, NullLocator

    bar = figure.colorbar(ScalarMappable(scale, colours), ax=axes, pad=0.03, fraction=0.05, aspect=24)
    if isinstance(scale, LogNorm):
        bar.ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        bar.ax.yaxis.set_major_formatter(plain_number)
        bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(length=0, labelsize=9, labelcolor=SOFT, which="both")
    better = "less" if result.mode == "min" else "more"
    bar.set_label(f"{shortened(result.metric, 40)}, {better} is better", fontsize=10, color=SOFT)


def _colours(result: SweepResult) -> tuple[Colormap, Normalize]:
    from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize

    stops = GOOD_TO_BAD if result.mode == "min" else GOOD_TO_BAD[::-1]
    colours = LinearSegmentedColormap.from_list("good to bad", stops)
    values = [value for trial in result.trials if (value := result.value(trial)) is not None] or [0.0, 1.0]
    low, high = min(values), max(values)
    if spans_far(values):
        return colours, LogNorm(low, high)
    return colours, Normalize(low, high if high > low else low + (abs(low) or 1.0))


def _mark_values(axes: Axes, columns: Axis, rows: Axis, letters: int) -> None:
    """Ticks in the middle of cells, at every column and row that has room for its label."""
    across = max(1, letters // len(columns.values))
    each = -(-max(map(len, columns.labels)) // max(across - 1, 1))
    axes.set_xticks(*_every(columns, each))
    axes.set_yticks(*_every(rows, -(-len(rows.values) // _MOST_ROWS)))


def _every(axis: Axis, step: int) -> tuple[list[int], list[str]]:
    indices = list(range(0, len(axis.values), step))
    return indices, [axis.labels[index] for index in indices]


def _ink_on(fill: tuple[float, float, float]) -> str:
    red, green, blue = fill
    return PAGE if 0.299 * red + 0.587 * green + 0.114 * blue < 0.55 else INK
