"""What a chart shows, as data: lines, points, cells; the ends and ticks of an axis where they are not given; and the colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

Values: TypeAlias = tuple[float | None, ...]
"""The values of a line; ``None`` breaks it."""

LineStyle: TypeAlias = Literal["raw", "mean", "epochs", "start", "reference", "current", "trials", "trend", "values"]
"""How a line looks: ``raw`` faint, for noisy values behind their ``mean``; ``epochs`` for values measured once an epoch; ``start`` for one
measured before training; ``reference`` and ``current`` for two distributions; ``trials`` for faint dots, ``trend`` for a line with dots
and ``values`` for dots without a line."""

LIGHT = {
    "page": "#fbfaf7",
    "line": "#e2dfd7",
    "track": "#e6e3db",
    "empty": "#efece5",
    "ink": "#1d1c1a",
    "soft": "#5e5a53",
    "focus": "#1f5fbf",
    "bar": "#5b7a99",
    "failed": "#a8261c",
    "failed-tint": "#fcf1ee",
    "failed-band": "#f9e4e0",
    "failed-line": "#efcdc7",
    "warning": "#7d5200",
    "warning-tint": "#fbf3e0",
    "warning-line": "#e8d5a6",
    "passed": "#20693f",
    "raw": "#7292b0",
    "mean": "#2a6194",
    "band": "#d5e1ec",
    "epochs": "#b0501a",
}
DARK = {
    "page": "#151514",
    "line": "#353430",
    "track": "#33322f",
    "empty": "#232321",
    "ink": "#eceae4",
    "soft": "#aaa69c",
    "focus": "#8ab8ff",
    "bar": "#7d9cbc",
    "failed": "#ff9c8f",
    "failed-tint": "#251a18",
    "failed-band": "#33211e",
    "failed-line": "#56322d",
    "warning": "#e8b95a",
    "warning-tint": "#262114",
    "warning-line": "#54461f",
    "passed": "#7fcf9d",
    "raw": "#55738e",
    "mean": "#8fbde6",
    "band": "#26394a",
    "epochs": "#f0a264",
}
"""Colours of pages and pictures: in a light room, and in a dark one."""

VARIABLES = {name: f"#fe{index:02x}fe" for index, name in enumerate(LIGHT)}
"""Colours that stand for the variables of a style sheet while matplotlib draws."""

MOST_DOTS = 60
"""Points that each get a dot; of more only the line is drawn."""

NOTHING_TO_DRAW = "no finite value to draw"


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis."""

    place: float
    label: str


@dataclass(frozen=True)
class Axis:
    """An axis.

    Attributes:
        label: What it shows, with its unit.
        low: The value at its low end; ``None`` for a little less than the least value.
        high: The value at its high end; ``None`` for a little more than the greatest value.
        log: Whether equal ratios, rather than equal differences, are equally far apart.
        whole: Whether only whole numbers are worth a tick.
        ticks: Its ticks, where they are not left to the renderer. Those that would overlap are not drawn.
    """

    label: str = ""
    low: float | None = None
    high: float | None = None
    log: bool = False
    whole: bool = False
    ticks: tuple[Tick, ...] = ()


@dataclass(frozen=True)
class Line:
    """A line of a chart."""

    label: str
    style: LineStyle
    x: tuple[float, ...]
    y: Values

    @property
    def dots(self) -> list[int]:
        """Which of its points need a dot: those measured once an epoch, and those without a neighbour to draw a line to."""
        if self.style in ("epochs", "start", "trials", "trend", "values") and len(self.y) <= MOST_DOTS:
            return [index for index, value in enumerate(self.y) if value is not None]
        padded = (None, *self.y, None)
        lonely = [padded[index] is None and padded[index + 2] is None for index in range(len(self.y))]
        return [index for index, value in enumerate(self.y) if value is not None and lonely[index]]


@dataclass(frozen=True)
class Band:
    """The range of values at each place."""

    x: tuple[float, ...]
    lows: Values
    highs: Values


@dataclass(frozen=True)
class Span:
    """A marked stretch of the horizontal axis."""

    first: float
    last: float
    label: str = ""


@dataclass(frozen=True)
class Mark:
    """A marked place on the horizontal axis."""

    x: float
    label: str


@dataclass(frozen=True)
class Point:
    """A point with words beside it.

    Attributes:
        x: Its place on the horizontal axis.
        y: Its value; ``None`` for one without, which is a cross along the top.
        label: The words.
        below: Whether they stand below the point.
    """

    x: float
    y: float | None
    label: str
    below: bool = False


@dataclass(frozen=True)
class LineChart:
    """Lines over a common horizontal axis.

    Attributes:
        title: What is drawn.
        caption: How to read it.
        description: What there is to see, for those who do not see it.
        lines: From back to front.
        x: The horizontal axis; its ends are given.
        y: The vertical axis.
        band: Behind the lines.
        spans: Marked stretches.
        mark: Marked place.
        points: Marked points, in front of the lines.
        notes: What a reader must not overlook, in words.
    """

    title: str
    caption: str
    description: str
    lines: tuple[Line, ...]
    x: Axis
    y: Axis
    band: Band | None = None
    spans: tuple[Span, ...] = ()
    mark: Mark | None = None
    points: tuple[Point, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def values(self) -> list[float]:
        """Every value that is drawn."""
        rows = [line.y for line in self.lines] + ([self.band.lows, self.band.highs] if self.band else [])
        return [value for row in rows for value in row if value is not None]


@dataclass(frozen=True)
class Cell:
    """A cell of a heat map.

    Attributes:
        column: Counted from the left, from 0.
        row: Counted from the bottom, from 0.
        value: What its colour stands for; ``None`` where there is none.
        label: The words in it.
        failed: Whether its value is missing because something failed.
    """

    column: int
    row: int
    value: float | None
    label: str
    failed: bool = False


@dataclass(frozen=True)
class HeatMap:
    """Values over the categories of two axes.

    Attributes:
        x: The horizontal axis; its ticks are the categories.
        y: The vertical axis, in the same way.
        cells: One for each pair of categories.
        scale: The colours: what they stand for, and whether they are logarithmic.
        best_is_low: Whether the lowest value is the best.
        best: Column and row of the best cell.
    """

    x: Axis
    y: Axis
    cells: tuple[Cell, ...]
    scale: Axis
    best_is_low: bool = True
    best: tuple[int, int] | None = None


@dataclass(frozen=True)
class Bar:
    """A row of a bar chart.

    Attributes:
        label: What it is of.
        text: The value, or the two values, for people.
        lengths: How long its bars are, from 0 to 1; ``None`` for a value that has no place on the scale.
        details: What else is known about it.
        alarming: Whether the value deserves a second look.
    """

    label: str
    text: str
    lengths: tuple[float | None, ...]
    details: str = ""
    alarming: bool = False


@dataclass(frozen=True)
class BarChart:
    """Horizontal bars, one or two a row.

    Attributes:
        title: What is drawn.
        caption: How to read it.
        description: What there is to see, for those who do not see it.
        bars: From top to bottom.
        ends: What the left and the right end stand for; empty where the bars begin at 0 and the longest one fills its row.
        decades: How many powers of ten a logarithmic scale spans; 0 for a linear one.
    """

    title: str
    caption: str
    description: str
    bars: tuple[Bar, ...]
    ends: tuple[str, str] | None = None
    decades: int = 0

    @property
    def grid_percent(self) -> float:
        """How far apart lines at powers of ten are, in percent of the width; at most about six of them."""
        return round(100 * math.ceil(self.decades / 5) / self.decades, 3) if self.decades else 0.0


_MARGIN = 0.06
_FINE_DECADES = 1.4
"""Below this many decades a logarithmic axis has ticks at 2 and 5 too."""


def limits_of(axis: Axis, values: Sequence[float]) -> tuple[float, float]:
    """Both ends of an axis that shows values with a margin.

    Args:
        axis: The axis, whose own ends come first.
        values: At least one; finite, and positive where the axis is logarithmic.
    """
    low, high = min(values), max(values)
    if axis.log:
        ratio = max((high / low) ** _MARGIN, 1.05) if high / low < math.inf else 10.0
        low, high = low / ratio, high * ratio
    else:
        # A constant, or one except for rounding, gets a range as wide as its size.
        margin = (high - low) * _MARGIN if high - low > 1e-9 * abs(high) else abs(high) * 0.1 or 1.0
        low, high = low - margin, high + margin
    return low if axis.low is None else axis.low, high if axis.high is None else axis.high


def ticks_of(axis: Axis, low: float | None = None, high: float | None = None, most: int = 6) -> list[Tick]:
    """At most about so many ticks at round values between two ends, by default those of the axis."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    low, high = axis.low if low is None else low, axis.high if high is None else high
    assert low is not None
    assert high is not None
    decades = math.log10(high) - math.log10(low) if axis.log else 0.0
    if decades >= _FINE_DECADES:
        with np.errstate(over="ignore"):  # of a tick beyond the greatest float, which is left out
            found = LogLocator(numticks=most).tick_values(low, high)
    elif decades > 0.5:
        found = LogLocator(subs=(1.0, 2.0, 5.0)).tick_values(low, high)
    else:
        found = MaxNLocator(most - 1, integer=axis.whole, steps=[1, 2, 5, 10] if axis.whole else [1, 2, 2.5, 5, 10]).tick_values(
            low, high
        )
    rooms = (1e-9 * low, 1e-9 * high) if axis.log else (1e-9 * (high - low),) * 2
    values = [float(value) for value in found if low - rooms[0] <= value <= high + rooms[1]] or [low, high]
    labels = [_power(value) for value in values] if decades > 1 else tick_labels(values)
    return [Tick(value, label) for value, label in zip(values, labels, strict=True)]


def tick_labels(values: Sequence[float]) -> list[str]:
    """As many decimals as tell equally spaced values apart; ``20k`` for thousands, ``2e-4`` for the tiny."""
    largest = max(map(abs, values), default=0.0)
    if largest >= 1e7 or 0 < largest < 2e-3:
        return [_short(value) for value in values]
    spacing = abs(values[-1] - values[0]) / (len(values) - 1) if len(values) > 1 else largest
    unit, suffix = (1e6, "M") if spacing >= 1e6 else (1e3, "k") if largest >= 1e4 else (1.0, "")
    decimals = next((count for count in range(7) if _exact(values, unit, count)), 7)
    return [f"{value / unit:,.{decimals}f}{suffix}" if abs(value) > 1e-9 * largest else "0" for value in values]


def _power(value: float) -> str:
    return f"{value:g}" if 1e-3 <= value < 1e4 else _short(value)


def _short(value: float) -> str:
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}" if value else "0"


def _exact(values: Sequence[float], unit: float, decimals: int) -> bool:
    spread = max(values) - min(values) or abs(values[0]) or 1.0
    return all(abs(round(value / unit, decimals) * unit - value) < 1e-6 * spread for value in values)
