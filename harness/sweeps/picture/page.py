"""The picture of a sweep, drawn by matplotlib without a display or any state that threads would share."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

from harness.sweeps.grid import shown
from harness.sweeps.picture.curve import draw_curve
from harness.sweeps.picture.heat_map import draw_heat_map
from harness.sweeps.picture.style import BEST, FAILED, INK, PAGE, SOFT, settle
from harness.sweeps.result import SweepResult
from harness.sweeps.table import trials_of
from harness.wording import shortened, six_digits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 110
_COLUMNS = 3
_HEAD = 1.05
"""Inches above the charts, for words."""


def to_png(result: SweepResult) -> bytes:
    """The picture as the bytes of a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    varied = [key for key, values in result.grid.values.items() if len(values) > 1] or list(result.grid.values)[:1]
    width, height = _size(result, varied)
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor=PAGE, layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(  # type: ignore[union-attr]
        rect=(0.012, 0.015, 0.976, 1 - _HEAD / height - 0.015),  # type: ignore[call-arg]
        w_pad=0.12,  # type: ignore[call-arg]
    )
    _head(figure, result, varied, width, height)
    if len(varied) == 1:
        draw_curve(figure.add_subplot(), result, varied[0], wide=True)
    elif len(varied) == 2:
        across, up = sorted(varied, key=lambda key: -len(result.grid.values[key]))
        draw_heat_map(figure, figure.add_subplot(), result, across, up)
    else:
        _draw_each(figure, result, varied)
    settle(figure)
    file = io.BytesIO()
    figure.savefig(file, format="png", facecolor=PAGE, metadata={"Title": result.name, "Software": None})
    return file.getvalue()


def _size(result: SweepResult, varied: list[str]) -> tuple[float, float]:
    """Width and height in inches."""
    if len(varied) == 1:
        return 9.0, 5.2 + _HEAD
    if len(varied) == 2:
        up, across = sorted(len(result.grid.values[key]) for key in varied)
        return min(max(3.2 + 0.85 * across, 8.0), 16.0), min(max(1.2 + 0.62 * up, 3.2), 12.0) + _HEAD
    return 12.0, 3.4 * math.ceil(len(varied) / _COLUMNS) + _HEAD


def _draw_each(figure: Figure, result: SweepResult, varied: list[str]) -> None:
    """A chart a key, on one scale of the metric."""
    columns = min(len(varied), _COLUMNS)
    charts = figure.subplots(math.ceil(len(varied) / columns), columns, sharey=True, squeeze=False).ravel()
    for chart, key in zip(charts, varied, strict=False):
        draw_curve(chart, result, key, wide=False)
    for chart in charts[len(varied) :]:
        chart.set_visible(False)
    better = "less" if result.mode == "min" else "more"
    for chart in charts[::columns]:
        chart.set_ylabel(f"{shortened(result.metric, 30)}, {better} is better", fontsize=10, color=SOFT)


def _head(figure: Figure, result: SweepResult, varied: list[str], width: float, height: float) -> None:
    """What the sweep is, its best trial, and how to read the marks."""
    letters = int(width * 8.6)
    title = f"{result.name}: {result.metric} of {trials_of(result)}"
    figure.text(0.16 / width, 1 - 0.3 / height, shortened(title, letters), fontsize=15, fontweight="bold", va="center", color=INK)
    best = result.best
    words = f"best {six_digits(result.value(best))} with {best.combination}" if best else f"no trial has a finite {result.metric}"
    colour = BEST if best else FAILED
    figure.text(0.16 / width, 1 - 0.6 / height, shortened(words, int(letters * 1.45)), fontsize=11, va="center", color=colour)
    notes = shortened(" · ".join(_notes(result, varied)), int(letters * 1.7))
    figure.text(0.16 / width, 1 - 0.85 / height, notes, fontsize=9, va="center", color=SOFT)


def _notes(result: SweepResult, varied: list[str]) -> list[str]:
    """What the marks mean, and what the charts do not show."""
    lost = len([trial for trial in result.trials if trial.status == "finished" and result.value(trial) is None])
    what = [f"{len(result.failed)} failed"] * bool(result.failed) + [f"{lost} not finite"] * bool(lost)
    crosses = ["× " + " and ".join(what)] * bool(what) if len(varied) != 2 else what
    several = ["pale dots: every trial, line: the best of each value"] if len(varied) > 2 else []
    fixed = [f"{key}={shown(values[0])}" for key, values in result.grid.values.items() if key not in varied]
    return [f"sweep {result.sweep_id}", *several, *crosses, *fixed]
