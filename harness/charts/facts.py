"""What a chart shows, as data: computed once, and the same whatever draws it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

Values: TypeAlias = tuple[float | None, ...]
"""The values of a line; ``None`` breaks it."""

LineStyle: TypeAlias = Literal["raw", "mean", "epochs", "start", "reference", "current", "trials", "trend", "values"]
"""How a line looks: ``raw`` faint, for noisy values behind their ``mean``; ``epochs`` for values measured once an epoch; ``start`` for one
measured before training; ``reference`` and ``current`` for two distributions; ``trials`` for faint dots, ``trend`` for a line with dots
and ``values`` for dots without a line."""

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
    """A line of a chart.

    Attributes:
        label: What it shows.
        style: How it looks.
        x: Where its points are.
        y: Their values, as many.
    """

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
