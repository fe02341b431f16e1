"""Charts drawn by matplotlib: onto the axes of a picture, or as SVG that takes its colours from the page it is in.

Nothing here uses pyplot, needs a display, or heeds the user's ``matplotlibrc``.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

from harness.charts import LIGHT, NOTHING_TO_DRAW, Axis, HeatMap, Line, LineChart, Point, Span, Tick, Values, limits_of, ticks_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_LABELLED_CELLS = 160
_MOST_LABELLED_ROWS = 24
_TALL = 200
"""Points of height from which on an axis has room for more ticks."""

_TOP = 0.965
"""Where points without a value are marked, as a share of the height."""

CLASS = "class-"
"""What the id of an artist begins with that is to become the class of an SVG element."""

_GOOD_TO_BAD = ("#123f6b", "#2a6194", "#6b9cc4", "#b5d0e4", "#f1f0ea")
"""Of a heat map, the best first."""

_FONT = "DejaVu Sans"
"""It comes with matplotlib, so a picture looks the same everywhere."""

_LINES: dict[str, dict[str, Any]] = {
    "raw": {"color": "raw", "linewidth": 0.9, "markersize": 2.5},
    "mean": {"color": "mean", "linewidth": 1.9, "markersize": 4.5},
    "epochs": {"color": "epochs", "linewidth": 1.6, "markersize": 6.5},
    "start": {"color": "epochs", "linewidth": 0.0, "markersize": 6.5, "hollow": True},
    "reference": {"color": "soft", "linewidth": 1.9, "markersize": 4.5, "linestyle": (0, (3, 2))},
    "current": {"color": "focus", "linewidth": 1.9, "markersize": 4.5},
    "trials": {"color": "raw", "linewidth": 0.0, "markersize": 6.0},
    "trend": {"color": "mean", "linewidth": 1.7, "markersize": 8.0},
    "values": {"color": "mean", "linewidth": 0.0, "markersize": 8.0},
}
"""The style of a line: its colour's name, widths and sizes, whether its dots are hollow."""

_one_at_a_time = Lock()


@contextmanager
def plain_matplotlib() -> Iterator[None]:
    """Matplotlib with its own defaults for one thread at a time, since its settings belong to the process."""
    import matplotlib
    from matplotlib import style

    ours: dict[Any, Any] = {
        "text.parse_math": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "modeltiers",
        "font.family": [_FONT],
    }
    with _one_at_a_time, style.context("default"):
        matplotlib.rcParams.update(ours)
        yield


def new_figure(width: float, height: float, *, layout: Literal["constrained"] | None = None) -> Figure:
    """An empty picture of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, facecolor=LIGHT["page"], layout=layout)


def png_bytes(figure: Figure) -> bytes:
    """A picture as the bytes of a PNG file; letters that its font lacks become squares."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.font_manager import findfont, get_font
    from matplotlib.text import Text

    known = get_font(findfont(_FONT)).get_charmap()
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        letters = (letter if letter == "\n" or ord(letter) in known else "\N{WHITE SQUARE}" for letter in text.get_text())
        text.set_text("".join(letters))
    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
    return file.getvalue()


def svg_text(chart: LineChart) -> str:
    """A chart as the text of an SVG file that stands by itself, with its title, caption and legend."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    file = io.StringIO()
    with plain_matplotlib():
        figure = new_figure(7.2, 2.6, layout="constrained")
        axes = figure.add_subplot()
        draw_lines(axes, chart, roomy=False)
        draw_legend(axes, chart)
        axes.set_title(chart.title, loc="left", fontsize=10.5, color=LIGHT["ink"], fontweight="bold")
        axes.set_xlabel(chart.caption, fontsize=9, color=LIGHT["soft"])
        about = {"Title": chart.title, "Description": chart.description, "Date": None, "Creator": None}
        FigureCanvasSVG(figure).print_svg(file, metadata=about)
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())


def draw_lines(
    axes: Axes, chart: LineChart, colours: Mapping[str, str] = LIGHT, *, fontsize: float = 8.5, roomy: bool = True
) -> None:
    """Draws the lines of a chart with its axes, but not its title, caption and notes.

    Args:
        axes: Where to draw.
        chart: What to draw.
        colours: The colours by name.
        fontsize: Size of the labels, in points.
        roomy: Whether the chart is so wide that there is room for words.
    """
    _plain(axes, colours, fontsize)
    _scale(axes, chart, colours, fontsize)
    for span in chart.spans:
        _draw_span(axes, chart.x, span, colours, fontsize)
    if chart.band is not None:
        edges = _numbers(chart.band.lows), _numbers(chart.band.highs)
        # The outline keeps the spike of a single step in sight, however narrow it is.
        axes.fill_between(
            chart.band.x,
            *edges,
            facecolor=colours["band"],
            edgecolor=colours["raw"],
            linewidth=0.7,
            clip_on=False,
            gid=f"{CLASS}band",
        )
    if chart.mark is not None:
        _draw_mark(axes, chart, colours, fontsize, roomy=roomy)
    for line in chart.lines:
        _draw_line(axes, line, colours)
    for point in chart.points:
        _draw_point(axes, point, colours, roomy=roomy)
    if not chart.values and not chart.points:
        words: dict[str, Any] = {"ha": "center", "color": colours["soft"], "fontsize": fontsize + 1.5, "gid": f"{CLASS}nothing"}
        axes.text(0.5, 0.5, NOTHING_TO_DRAW, transform=axes.transAxes, **words)


def draw_legend(axes: Axes, chart: LineChart) -> None:
    """The lines in words, in the corner on the right of the title."""
    from matplotlib.patches import Patch

    handles, labels = axes.get_legend_handles_labels()
    if chart.band is not None:
        handles, labels = [*handles, Patch(facecolor=LIGHT["band"], edgecolor=LIGHT["raw"])], [*labels, "lowest to highest"]
    if handles:
        axes.legend(
            handles,
            labels,
            loc="lower right",
            bbox_to_anchor=(1, 1.005),
            ncols=len(labels),
            frameon=False,
            fontsize=9,
            labelcolor=LIGHT["soft"],
            borderaxespad=0,
            borderpad=0.2,
            handlelength=1.6,
            columnspacing=1.6,
        )


def draw_heat_map(axes: Axes, chart: HeatMap) -> None:
    """A cell for each combination, the better the darker, beside the scale of the colours."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize
    from matplotlib.patches import Rectangle

    _plain(axes, LIGHT, 9)
    axes.set(xlim=(-0.5, len(chart.x.ticks) - 0.5), ylim=(-0.5, len(chart.y.ticks) - 0.5))
    _set_ticks(axes.xaxis, _fitting(chart.x, axes, letters=axes.figure.get_figwidth() * 10))  # type: ignore[union-attr]
    _set_ticks(axes.yaxis, chart.y.ticks[:: -(-len(chart.y.ticks) // _MOST_LABELLED_ROWS)])
    label: dict[str, Any] = {"fontsize": 10.5, "color": LIGHT["ink"], "fontweight": "bold", "labelpad": 8}
    axes.set_xlabel(chart.x.label, **label)
    axes.set_ylabel(chart.y.label, **label)
    values = [cell.value for cell in chart.cells if cell.value is not None] or [0.0, 1.0]
    low, high = min(values), max(values)
    norm = LogNorm(low, high) if chart.scale.log else Normalize(low, high if high > low else low + (abs(low) or 1.0))
    stops = _GOOD_TO_BAD if chart.best_is_low else _GOOD_TO_BAD[::-1]
    shades: Any = ScalarMappable(norm, LinearSegmentedColormap.from_list("good to bad", stops))
    labelled = len(chart.cells) <= _MOST_LABELLED_CELLS
    for cell in chart.cells:
        fill: Any = shades.to_rgba(cell.value)[:3] if cell.value is not None else LIGHT["failed-band" if cell.failed else "empty"]
        corner, ink = (cell.column - 0.5, cell.row - 0.5), "failed" if cell.failed else "soft"
        axes.add_patch(Rectangle(corner, 1, 1, facecolor=fill, edgecolor=LIGHT["page"], linewidth=2 if labelled else 0.5))
        if labelled:
            letters = LIGHT[ink] if cell.value is None else _ink_on(fill)
            axes.text(cell.column, cell.row, cell.label, ha="center", va="center", fontsize=9.5, color=letters)
        elif cell.failed:
            axes.plot(cell.column, cell.row, marker="x", markersize=4, color=LIGHT["failed"])
    if chart.best is not None:
        corner = (chart.best[0] - 0.5, chart.best[1] - 0.5)
        for edge, width in (("page", 8), ("passed", 3.5)):
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=LIGHT[edge], linewidth=width, zorder=4, clip_on=False))
        _draw_colour_scale(axes, shades, chart.scale, (low, high))


def _draw_colour_scale(axes: Axes, shades: Any, scale: Axis, ends: tuple[float, float]) -> None:
    bar = axes.figure.colorbar(shades, ax=axes, pad=0.03, fraction=0.05, aspect=24)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(length=0, labelsize=9, labelcolor=LIGHT["soft"], which="both")
    if scale.log:
        _set_ticks(bar.ax.yaxis, ticks_of(scale, *ends))
    bar.set_label(scale.label, fontsize=10, color=LIGHT["soft"])


def _plain(axes: Axes, colours: Mapping[str, str], fontsize: float) -> None:
    """Axes without a frame."""
    axes.patch.set_visible(False)
    axes.set_title("", y=1.0)  # else matplotlib measures every label to find a place for a title
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, pad=5, labelsize=fontsize, labelcolor=colours["soft"], which="both", left=False, bottom=False)
    axes.set_axisbelow(True)


def _scale(axes: Axes, chart: LineChart, colours: Mapping[str, str], fontsize: float) -> None:
    assert chart.x.low is not None
    assert chart.x.high is not None
    axes.spines["bottom"].set(visible=True, color=colours["soft"], linewidth=0.8)
    if chart.x.log:
        axes.set_xscale("log")
    axes.set_xlim(chart.x.low, chart.x.high)
    _set_ticks(axes.xaxis, _fitting(chart.x, axes, _letters(axes, fontsize)) if chart.x.ticks else ticks_of(chart.x))
    _keep_inside(axes)
    values = chart.values + [point.y for point in chart.points if point.y is not None]
    if not values:
        axes.set_yticks([])
        return
    if chart.y.log:
        axes.set_yscale("log")
    axes.set_ylim(limits_of(chart.y, values))
    most = 6 if _points(axes)[1] < _TALL else 8
    _set_ticks(axes.yaxis, chart.y.ticks or ticks_of(chart.y, *axes.get_ylim(), most))
    axes.grid(axis="y", color=colours["line"], linewidth=0.8, clip_on=False)


def _set_ticks(axis: Any, ticks: Sequence[Tick]) -> None:
    axis.set_ticks([tick.place for tick in ticks], [tick.label for tick in ticks])
    axis.set_ticks([], minor=True)


def _letters(axes: Axes, fontsize: float) -> float:
    """How many letters fit along the horizontal axis."""
    return 1.6 * _points(axes)[0] / fontsize


def _points(axes: Axes) -> tuple[float, float]:
    """Width and height."""
    box, scale = axes.get_window_extent(), 72 / axes.figure.dpi
    return box.width * scale, box.height * scale


def _fitting(axis: Axis, axes: Axes, letters: float) -> list[Tick]:
    """The ticks whose labels do not overlap, when so many letters fit along the axis."""
    low, high = axes.get_xlim()
    kept: list[Tick] = []
    free = -math.inf
    for tick in axis.ticks:
        share = math.log(tick.place / low) / math.log(high / low) if axis.log else (tick.place - low) / (high - low)
        if share * letters - len(tick.label) / 2 >= free:
            kept.append(tick)
            free = share * letters + len(tick.label) / 2 + 1
    return kept


def _keep_inside(axes: Axes) -> None:
    """Sets the labels at both ends of the horizontal axis so that they do not run over the chart's edge."""
    for label, place in zip(axes.get_xticklabels(), axes.get_xticks(), strict=True):
        share = axes.transAxes.inverted().transform(axes.transData.transform((place, 1.0)))[0]
        label.set_horizontalalignment("left" if share < 0.04 else "right" if share > 0.96 else "center")


def _draw_span(axes: Axes, x: Axis, span: Span, colours: Mapping[str, str], fontsize: float) -> None:
    low, high = x.low or 0.0, x.high or 0.0
    first, last = max(span.first, low), min(span.last, high)
    least = 0.004 * (high - low)  # a single step among many stays in sight
    first = min(first, high - least)
    last = max(last, first + least)
    letters = _letters(axes, fontsize) * (last - first) / (high - low)
    axes.axvspan(
        first,
        last,
        facecolor=colours["failed-band"],
        edgecolor=colours["failed"],
        linewidth=0.4,
        clip_on=False,
        gid=f"{CLASS}gap",
    )
    if 0 < len(span.label) + 1 < letters:
        where: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "ha": "center", "fontsize": fontsize}
        axes.text((first + last) / 2, 0.04, span.label, color=colours["failed"], gid=f"{CLASS}alarm", **where)


def _draw_mark(axes: Axes, chart: LineChart, colours: Mapping[str, str], fontsize: float, *, roomy: bool) -> None:
    assert chart.mark is not None
    axes.axvline(
        chart.mark.x, color=colours["passed"], linewidth=1, linestyle=(0, (4, 3)), zorder=1.5, clip_on=False, gid=f"{CLASS}best"
    )
    if roomy:
        left = chart.mark.x - (chart.x.low or 0.0) > (chart.x.high or 0.0) - chart.mark.x
        axes.annotate(
            chart.mark.label,
            (chart.mark.x, 1),
            xycoords=axes.get_xaxis_transform(),
            xytext=(-5 if left else 5, -fontsize),
            textcoords="offset points",
            ha="right" if left else "left",
            color=colours["passed"],
            fontsize=fontsize,
            gid=f"{CLASS}best",
        )


def _draw_line(axes: Axes, line: Line, colours: Mapping[str, str]) -> None:
    style = dict(_LINES[line.style])
    colour, hollow = colours[style.pop("color")], style.pop("hollow", False)
    axes.plot(
        line.x,
        _numbers(line.y),
        color=colour,
        solid_capstyle="round",
        dash_capstyle="butt",
        label=line.label,
        marker="o" if line.dots else "",
        markevery=line.dots or None,
        markerfacecolor=colours["page"] if hollow else colour,
        markeredgecolor=colour if hollow else colours["page"],
        markeredgewidth=1.2 if hollow else 0.8,
        clip_on=False,
        gid=f"{CLASS}line",
        zorder=3 if line.style == "mean" else 2.5,
        **style,
    )


def _draw_point(axes: Axes, point: Point, colours: Mapping[str, str], *, roomy: bool) -> None:
    text: dict[str, Any] = {"textcoords": "offset points", "ha": "center"}
    if point.y is None:
        height = axes.get_xaxis_transform()
        cross: dict[str, Any] = {
            "linestyle": "none",
            "marker": "x",
            "markersize": 7,
            "markeredgewidth": 2,
            "clip_on": False,
            "zorder": 4,
        }
        axes.plot([point.x], [_TOP], transform=height, color=colours["failed"], **cross)
        place = {"xytext": (0, -8), "va": "top"} if roomy else {"xytext": (7, 0), "va": "center", "ha": "left"}
        axes.annotate(point.label, (point.x, _TOP), xycoords=height, color=colours["failed"], fontsize=8.5, **{**text, **place})
        return
    size = 11 if roomy else 9
    axes.plot(
        [point.x], [point.y], marker="o", markersize=size, color=colours["passed"], markeredgecolor=colours["page"], zorder=5
    )
    if roomy:
        text |= {"xytext": (0, -11), "va": "top"} if point.below else {"xytext": (0, 11), "va": "bottom"}
        axes.annotate(point.label, (point.x, point.y), fontsize=10.5, fontweight="bold", color=colours["passed"], **text)


def _numbers(values: Values) -> list[float]:
    return [math.nan if value is None else value for value in values]


def _ink_on(fill: Sequence[float]) -> str:
    red, green, blue = fill
    return LIGHT["page" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.55 else "ink"]
