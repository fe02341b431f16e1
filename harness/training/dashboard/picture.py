"""The dashboard as one PNG picture, drawn by matplotlib without a display or any state that threads would share."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.training.dashboard.charts import LABELLED, Chart, Line, Values
from harness.training.dashboard.summary import key_figures, verdict
from harness.training.events import Plan
from harness.training.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "page": "#fbfaf7",
    "line": "#e2dfd7",
    "ink": "#1d1c1a",
    "soft": "#5e5a53",
    "raw": "#9db8cf",
    "mean": "#2a6194",
    "epochs": "#b0501a",
    "start": "#b0501a",
    "band": "#d5e1ec",
    "failed": "#a8261c",
    "failed-tint": "#f7dcd7",
    "warning": "#7d5200",
    "passed": "#20693f",
    "going": "#1d1c1a",
    "empty": "#5e5a53",
}
"""Those of the page in a light room."""

_WIDTH, _HEAD, _LOSS, _ROW = 12.0, 0.95, 4.2, 2.4
"""Inches: of the picture, of the words above, of the loss, of each row below it."""

_COLUMNS = 3
_DPI = 110
_FONT = "DejaVu Sans"
"""It comes with matplotlib, so the picture looks the same everywhere."""


def to_png(charts: Sequence[Chart], history: History, plan: Plan) -> bytes:
    """The dashboard as the bytes of a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = math.ceil(max(len(charts) - 1, 0) / _COLUMNS)
    height = _HEAD + (_LOSS if charts else 0.4) + rows * _ROW
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor=COLOURS["page"])
    figure.set_layout_engine("none")
    canvas = FigureCanvasAgg(figure)
    _head(figure, history, plan, height)
    for index, chart in enumerate(charts):
        _draw(figure.add_axes(_place(index, len(charts) - 1, height)), chart, wide=index == 0)
    _settle(figure)
    file = io.BytesIO()
    canvas.print_png(file, metadata={"Software": None})  # not savefig, which would heed a matplotlibrc
    return file.getvalue()


def _head(figure: Figure, history: History, plan: Plan, height: float) -> None:
    mood, words = verdict(history, plan)
    name, ink = _shortened(plan.name or "training", 70), COLOURS["ink"]
    figure.text(0.04, 1 - 0.42 / height, name, fontsize=17, fontweight="bold", color=ink, va="center")
    figure.text(0.04, 1 - 0.76 / height, words, fontsize=11.5, color=COLOURS[mood], va="center")
    figures = key_figures(history, plan)
    asked = [f"{label} {text}" for label, text in figures.items() if label in ("Steps", "Time in steps", "Throughput")]
    figure.text(0.98, 1 - 0.42 / height, "   ".join(asked), fontsize=10.5, color=COLOURS["soft"], va="center", ha="right")


def _place(index: int, below: int, height: float) -> tuple[float, float, float, float]:
    """Left, bottom, width and height of a chart, as shares of the picture: the loss on top, the others in rows below."""
    left, right, gap = 0.055, 0.98, 0.055
    if index == 0:
        return left, 1 - (_HEAD + _LOSS - 0.45) / height, right - left, (_LOSS - 0.95) / height
    row, column = divmod(index - 1, _COLUMNS)
    columns = min(below, _COLUMNS)
    width = (right - left - gap * (columns - 1)) / columns
    bottom = 1 - (_HEAD + _LOSS + (row + 1) * _ROW - 0.4) / height
    return left + column * (width + gap), bottom, width, (_ROW - 1.0) / height


def _draw(axes: Axes, chart: Chart, *, wide: bool) -> None:
    axes.set_facecolor(COLOURS["page"])
    axes.spines[:].set_visible(False)
    axes.spines["bottom"].set(visible=True, color=COLOURS["line"], linewidth=0.8)
    axes.set_xlim(chart.x.low, chart.x.high)
    _entitle(axes, chart, wide=wide)
    _mark_axes(axes, chart)
    _mark_gaps(axes, chart, wide=wide)
    if chart.band:
        ends = _numbers(chart.band.lows), _numbers(chart.band.highs)
        axes.fill_between(chart.band.steps, *ends, facecolor=COLOURS["band"], edgecolor=COLOURS["raw"], linewidth=0.5)
    for line in chart.lines:
        _draw_line(axes, line, wide=wide)
    if chart.best:
        axes.axvline(chart.best.step, color=COLOURS["passed"], linewidth=1, linestyle=(0, (4, 3)), marker="", zorder=1.5)
    if wide:
        _mark_best(axes, chart)
        _legend(axes, chart)
    if chart.notes:
        notes = textwrap.shorten(" ".join(chart.notes), 150 if wide else 108, placeholder=" …")
        axes.set_xlabel("\n".join(textwrap.wrap(notes, 150 if wide else 54)), fontsize=7.5, color=COLOURS["failed"], loc="left")


def _entitle(axes: Axes, chart: Chart, *, wide: bool) -> None:
    size = 11.5 if wide else 10
    title = axes.set_title(_shortened(chart.title, 60 if wide else 30), loc="left", fontsize=size, pad=9)
    title.set(color=COLOURS["ink"], fontweight="bold")
    axes.annotate(
        chart.caption,
        (1, 0),
        xycoords=title,
        # Up from the title's lower edge to its baseline.
        xytext=(7, 0.236 * size),
        textcoords="offset points",
        va="baseline",
        fontsize=8.5,
        color=COLOURS["soft"],
    )


def _mark_axes(axes: Axes, chart: Chart) -> None:
    """The ticks of the chart's own axes, so that picture and page have the same."""
    axes.tick_params(length=0, pad=4, labelsize=8.5, labelcolor=COLOURS["soft"], labeltop=False, labelright=False)
    axes.grid(False)
    axes.set_xticks([tick.value for tick in chart.x.ticks], [tick.label for tick in chart.x.ticks], minor=False)
    axes.minorticks_off()
    if chart.y is None:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no finite value to draw", transform=axes.transAxes, ha="center", color=COLOURS["soft"], fontsize=10)
        return
    if chart.y.log:
        axes.set_yscale("log")
    axes.set_ylim(chart.y.low, chart.y.high)
    axes.set_yticks([tick.value for tick in chart.y.ticks], [tick.label for tick in chart.y.ticks], minor=False)
    axes.set_yticks([], minor=True)
    axes.grid(axis="y", color=COLOURS["line"], linewidth=0.8, linestyle="-")
    axes.set_axisbelow(True)


def _draw_line(axes: Axes, line: Line, *, wide: bool) -> None:
    values = _numbers(line.values)
    axes.plot(
        line.steps,
        values,
        color=COLOURS[line.kind],
        linestyle="-",
        linewidth={"raw": 0.7, "mean": 1.9 if wide else 1.5, "epochs": 1.4, "start": 0.0}[line.kind],
        solid_capstyle="round",
        label=line.label,
        marker="o" if line.dots else "",
        markevery=line.dots or None,
        markersize={"raw": 1.5, "mean": 3.5, "epochs": 5.0, "start": 5.0}[line.kind],
        markerfacecolor=COLOURS["page"] if line.kind == "start" else COLOURS[line.kind],
        clip_on=False,
    )


def _mark_best(axes: Axes, chart: Chart) -> None:
    if chart.best is None:
        return
    left = chart.x.place(chart.best.step) > 0.5
    axes.annotate(
        chart.best.label,
        (chart.best.step, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-5 if left else 5, -9),
        textcoords="offset points",
        ha="right" if left else "left",
        color=COLOURS["passed"],
        fontsize=9,
    )


def _mark_gaps(axes: Axes, chart: Chart, *, wide: bool) -> None:
    tint, edge = COLOURS["failed-tint"], COLOURS["failed"]
    for gap in chart.gaps:
        axes.axvspan(gap.first - 0.5, gap.last + 0.5, facecolor=tint, edgecolor=edge, linewidth=0.4)
        left, right = max(chart.x.place(gap.first), 0.0), min(chart.x.place(gap.last), 1.0)
        if right - left > LABELLED * (1 if wide else 2):
            middle = (left + right) / 2
            axes.text(middle, 0.04, "not finite", transform=axes.transAxes, ha="center", color=COLOURS["failed"], fontsize=9)


def _legend(axes: Axes, chart: Chart) -> None:
    """Line styles in words, in the corner on the right of the title."""
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    if chart.band:
        from matplotlib.patches import Patch

        handles, labels = [*handles, Patch(color=COLOURS["band"])], [*labels, "least to largest"]
    axes.legend(
        handles,
        labels,
        loc="lower right",
        bbox_to_anchor=(1, 1.005),
        ncols=len(labels),
        frameon=False,
        fontsize=9,
        labelcolor=COLOURS["soft"],
        borderaxespad=0,
        borderpad=0.2,
        handlelength=1.6,
        columnspacing=1.6,
    )


def _numbers(values: Values) -> list[float]:
    return [math.nan if value is None else value for value in values]


def _settle(figure: Figure) -> None:
    """Holds every text to what it says and how: no TeX, whatever a name contains or the user's matplotlibrc asks for."""
    from matplotlib.font_manager import findfont, get_font
    from matplotlib.text import Text

    known = get_font(findfont(_FONT)).get_charmap()
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_usetex(False)
        text.set_parse_math(False)
        text.set_fontfamily(_FONT)
        text.set_text(
            "".join(letter if letter == "\n" or ord(letter) in known else "\N{WHITE SQUARE}" for letter in text.get_text())
        )


def _shortened(text: str, limit: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
