"""The dashboard as one PNG picture."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.charts.drawing import draw_legend, draw_lines, new_figure, plain_matplotlib, png_bytes
from harness.charts.facts import LineChart
from harness.charts.style import LIGHT
from harness.training.dashboard.summary import key_figures, verdict
from harness.training.events import Plan
from harness.training.history import History
from harness.wording import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _HEAD, _LOSS, _ROW = 12.0, 0.95, 4.2, 2.4
"""Inches: of the picture, of the words above, of the loss, of each row below it."""

_COLUMNS = 3
_TONES = {"going": "ink", "empty": "soft"}


def to_png(charts: Sequence[LineChart], history: History, plan: Plan) -> bytes:
    """The dashboard as the bytes of a PNG file: the loss on top, the other charts in rows below."""
    rows = math.ceil(max(len(charts) - 1, 0) / _COLUMNS)
    height = _HEAD + (_LOSS if charts else 0.4) + rows * _ROW
    with plain_matplotlib():
        figure = new_figure(_WIDTH, height)
        _head(figure, history, plan, height)
        for index, chart in enumerate(charts):
            axes = figure.add_axes(_place(index, len(charts) - 1, height))
            draw_lines(axes, chart, roomy=index == 0)
            _words(axes, chart, wide=index == 0)
        return png_bytes(figure)


def _head(figure: Figure, history: History, plan: Plan, height: float) -> None:
    mood, words = verdict(history, plan)
    name, tone = shortened(plan.name or "training", 70), LIGHT[_TONES.get(mood, mood)]
    figure.text(0.04, 1 - 0.42 / height, name, fontsize=17, fontweight="bold", color=LIGHT["ink"], va="center")
    figure.text(0.04, 1 - 0.76 / height, words, fontsize=11.5, color=tone, va="center")
    figures = key_figures(history, plan)
    asked = [f"{label} {text}" for label, text in figures.items() if label in ("Steps", "Time in steps", "Throughput")]
    figure.text(0.98, 1 - 0.42 / height, "   ".join(asked), fontsize=10.5, color=LIGHT["soft"], va="center", ha="right")


def _place(index: int, below: int, height: float) -> tuple[float, float, float, float]:
    """Left, bottom, width and height of a chart, as shares of the picture."""
    left, right, gap = 0.055, 0.98, 0.055
    if index == 0:
        return left, 1 - (_HEAD + _LOSS - 0.45) / height, right - left, (_LOSS - 0.95) / height
    row, column = divmod(index - 1, _COLUMNS)
    columns = min(below, _COLUMNS)
    width = (right - left - gap * (columns - 1)) / columns
    bottom = 1 - (_HEAD + _LOSS + (row + 1) * _ROW - 0.4) / height
    return left + column * (width + gap), bottom, width, (_ROW - 1.0) / height


def _words(axes: Axes, chart: LineChart, *, wide: bool) -> None:
    """The title of a chart, its caption beside it and its notes below it."""
    size = 11.5 if wide else 10
    title = axes.set_title(shortened(chart.title, 60 if wide else 30), loc="left", fontsize=size, y=1.0, pad=9)
    title.set(color=LIGHT["ink"], fontweight="bold")
    # Up from the title's lower edge to its baseline.
    place: dict[str, Any] = {"xycoords": title, "xytext": (7, 0.236 * size), "textcoords": "offset points", "va": "baseline"}
    axes.annotate(chart.caption, (1, 0), fontsize=8.5, color=LIGHT["soft"], **place)
    if wide:
        draw_legend(axes, chart)
    if chart.notes:
        notes = textwrap.shorten(" ".join(chart.notes), 150 if wide else 108, placeholder=" …")
        lines = "\n".join(textwrap.wrap(notes, 150 if wide else 54))
        axes.set_xlabel(lines, fontsize=7.5, color=LIGHT["failed"], loc="left")
