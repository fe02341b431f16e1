"""What the plots of a check's details show.

Distributions then and now; which output reads which input; how far two calls, or a file and its model, are apart; the shapes along a call;
curves of a training. They travel as JSON in a check's ``details["plots"]``, a list of::

    {"title": "age", "caption": "...", "kind": "numeric", "reference": [0.1, 0.5, 0.4], "current": [0.2, 0.6, 0.2], "edges": [30, 50]}
    {"title": "city", "caption": "...", "kind": "categorical", "reference": [0.3, 0.7], "current": [0.5, 0.5], "labels": ["Rome", "Oslo"]}
    {"title": "age: KS D", "caption": "...", "kind": "series", "reference": [0.1, 0.1], "current": [0.04, 0.3], "labels": ["Monday", "Tuesday"]}
    {"kind": "matrix", "title": "...", "outputs": ["position 0"], "inputs": ["token 0", "token 1"], "reads": [[true, true]],
     "forbidden": [[false, true]]}
    {"kind": "layers", "title": "...", "caption": "...", "labels": ["embed", "blocks.0"], "values": [0.0, 0.3]}
    {"kind": "parity", "title": "...", "caption": "...", "labels": ["batch=2, seq=5"], "values": [0.3], "bounds": [1e-6], "notes": [""]}
    {"kind": "shapes", "title": "...", "caption": "...", "rows": [["embed", "[2, 6]", "[2, 6, 16]"]], "blamed": "embed"}
    {"kind": "curves", "title": "...", "caption": "...", "x": "step", "y": "loss", "limits": {"best constant answer": 2.3},
     "lines": [{"label": "learning rate 0.001", "x": [0, 10], "y": [2.4, 2.2]}]}

Of a parity, a note stands in the place of a value, as where a file refuses a size. Numbers of the first three are shares; those of a series are
one window's after the other, with their limit as the reference. Of a numeric plot the first lies below all edges, the last above them.
``feature`` and ``contribution``, where a plot has them, make the ranking. What is not of that form is left out, as a check's details may hold
anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Literal

from harness.charts import Axis, Bar, BarChart, Line, LineChart, Tick
from harness.wording import counted, figure, joined, shortened

_LEAST_SPAN = 1e-300
_LONGEST_LABEL = 60
_MOST_TOLD = 8
_SMALLEST = 1e-12


@dataclass(frozen=True)
class Pair:
    """Shares of the same bin or level, from 0 to 1."""

    label: str
    reference: float
    current: float


@dataclass(frozen=True)
class Distributions:
    """Two distributions of the same thing.

    Attributes:
        pairs: The shares, without bins that both sides leave empty.
        chart: Lines for numbers: the share of values below each value; bars for levels.
        heads: What the columns of the pairs are called.
    """

    pairs: tuple[Pair, ...]
    chart: LineChart | BarChart
    heads: tuple[str, str, str] = ("Value", "Reference", "Now")


def distributions_of(details: Mapping[str, Any]) -> list[Distributions]:
    """The distributions in the details of a check."""
    return [found for found in map(_distributions, _plots(details)) if found is not None]


def ranking(details: Mapping[str, Any]) -> str:
    """``age 64%, city 20%``: what the plots' features contribute; empty where that is not said of two or more."""
    shares = [(str(one.get("feature") or one.get("title")), one.get("contribution")) for one in _plots(details)]
    told = [f"{name} {share:.0%}" for name, share in shares if isinstance(share, float) and math.isfinite(share)]
    return ", ".join(told) if len(told) > 1 else ""


def bin_labels(edges: Sequence[float]) -> list[str]:
    """``below 3``, ``3``, ``3 to 5``, ``5 and above``: what lies between ascending edges; one of a bin too narrow to tell its ends apart."""
    if not edges:
        return ["all values"]
    names = [_edge(edge) for edge in edges]
    inner = [low if low == high else f"{low} to {high}" for low, high in pairwise(names)]
    return [
        f"below {names[0]}",
        *inner,
        f"above {names[-1]}" if len(names) > 1 and names[-1] == names[-2] else f"{names[-1]} and above",
    ]


def share_text(share: float) -> str:
    """``12.3%``; ``<0.1%`` of a share that would round to nothing."""
    return "<0.1%" if 0 < share < 0.0005 else f"{share:.1%}"


def _edge(value: float) -> str:
    if abs(value) < _LEAST_SPAN:
        return "0"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def _plots(details: Mapping[str, Any], kind: str = "") -> list[Mapping[str, Any]]:
    """The plots of a kind, or all."""
    plots = details.get("plots")
    found = [one for one in plots if isinstance(one, Mapping)] if isinstance(plots, (list, tuple)) else []
    return [one for one in found if kind in ("", one.get("kind"))]


def _distributions(plot: Mapping[str, Any]) -> Distributions | None:
    before, now = _numbers(plot.get("reference")), _numbers(plot.get("current"))
    if not before or len(before) != len(now):
        return None
    title, caption = str(plot.get("title") or "unnamed"), str(plot.get("caption") or "")
    edges, labels = _numbers(plot.get("edges")), plot.get("labels")
    if plot.get("kind") == "numeric" and len(edges) == len(before) - 1 and edges and 0 < edges[-1] - edges[0] < math.inf:
        pairs = (Pair(*row) for row in zip(bin_labels(edges), before, now, strict=True) if row[1] or row[2])
        return Distributions(tuple(pairs), _curves(title, caption, edges, before, now))
    if plot.get("kind") == "series" and isinstance(labels, (list, tuple)) and len(labels) == len(before) > 1:
        values = tuple(Pair(str(label), *both) for label, *both in zip(labels, before, now, strict=True))
        return Distributions(values, _series(title, caption, values), ("Window", "Limit", "Measured"))
    if plot.get("kind") == "categorical" and isinstance(labels, (list, tuple)) and len(labels) == len(before):
        levels = tuple(Pair(str(label), *both) for label, *both in zip(labels, before, now, strict=True))
        return Distributions(levels, _bars(title, caption, levels))
    return None


def _curves(title: str, caption: str, edges: Sequence[float], before: Sequence[float], now: Sequence[float]) -> LineChart:
    """The share of values below each edge; behind the last edge the rest lies, no one knows where."""
    below = [tuple(min(share, 1.0) for share in accumulate(shares))[:-1] for shares in (before, now)]
    gap = max(range(len(edges)), key=lambda place: abs(below[0][place] - below[1][place]))
    description = (
        f"Share of the values of {title} below each value, in the reference and now. They are furthest apart at {_edge(edges[gap])}: "
        f"{below[0][gap]:.1%} of the reference lie below it, and {below[1][gap]:.1%} now."
    )
    x, places = Axis(title, edges[0], edges[-1]), tuple(edges)
    span = edges[-1] - edges[0]
    if not _LEAST_SPAN < span < 1 / _LEAST_SPAN:  # too near or too far apart for the arithmetic of a drawing
        places = tuple((edge - edges[0]) / span for edge in edges)
        x = Axis(title, 0.0, 1.0, ticks=(Tick(0.0, _edge(edges[0])), Tick(1.0, _edge(edges[-1]))))
    y = Axis("Share of values below", 0.0, 1.0, ticks=(Tick(0.0, "0%"), Tick(0.5, "50%"), Tick(1.0, "100%")))
    lines = Line("reference", "reference", places, below[0]), Line("now", "current", places, below[1])
    return LineChart(title, caption, description, lines, x, y)


def _series(title: str, caption: str, windows: Sequence[Pair]) -> LineChart:
    """One value a window, and its limit."""
    places = tuple(float(place) for place in range(len(windows)))
    last = windows[-1]
    description = (
        f"{title}, {len(windows)} windows; the last, {last.label}, has {last.current:.3g} with a limit of {last.reference:.3g}."
    )
    lines = (
        Line("limit", "reference", places, tuple(one.reference for one in windows)),
        Line("measured", "current", places, tuple(one.current for one in windows)),
    )
    ends = Tick(0.0, windows[0].label), Tick(places[-1], last.label)
    return LineChart(title, caption, description, lines, Axis("window", 0.0, places[-1], ticks=ends), Axis("measured"))


def _bars(title: str, caption: str, pairs: Sequence[Pair]) -> BarChart:
    most = max(pairs, key=lambda pair: abs(pair.current - pair.reference))
    description = (
        f"Shares of the values of {title}, in the reference and now, {len(pairs)} in all. The largest change is that of {most.label}, "
        f"from {most.reference:.1%} to {most.current:.1%}."
    )
    longest = max(max(pair.reference, pair.current) for pair in pairs) or 1.0
    bars = [
        Bar(
            shortened(pair.label, _LONGEST_LABEL),
            f"{share_text(pair.reference)} → {share_text(pair.current)}",
            (max(pair.reference, 0.0) / longest, max(pair.current, 0.0) / longest),
        )
        for pair in pairs
    ]
    return BarChart(title, caption, description, tuple(bars))


def _numbers(values: Any) -> list[float]:
    """Finite numbers as they stand; none where something else is among them."""
    if not isinstance(values, (list, tuple)):
        return []
    is_fit = all(isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) for value in values)
    return [float(value) for value in values] if is_fit else []


Cell = Literal["wrong", "reads", "unread"]
"""It is read and must not be; it is read; it is not."""


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


@dataclass(frozen=True)
class Shapes:
    """The shapes along a call.

    Attributes:
        title: What it shows.
        caption: Of which call.
        rows: A module, what it reads and what it returns, in the order in which the calls end.
        blamed: The module to look at; empty where none is known.
    """

    title: str
    caption: str
    rows: tuple[tuple[str, str, str], ...]
    blamed: str = ""

    @property
    def description(self) -> str:
        """The last rows in words: ``embed returns [2, 6, 16], head returns [2, 6, 23]``."""
        return ", ".join(f"`{module}` returns {returned}" for module, _, returned in self.rows[-_MOST_TOLD:])


def shapes_of(details: Mapping[str, Any]) -> list[Shapes]:
    """The shapes along a call in the details of a check."""
    return [found for found in map(_shapes, _plots(details, "shapes")) if found is not None]


def parities_of(details: Mapping[str, Any]) -> list[BarChart]:
    """How far a file is from its model, by size, in the details of a check."""
    return [found for found in map(_parity, _plots(details, "parity")) if found is not None]


def curves_of(details: Mapping[str, Any]) -> list[LineChart]:
    """The curves of a training in the details of a check."""
    return [found for found in map(_training_curves, _plots(details, "curves")) if found is not None]


@dataclass(frozen=True)
class Pictures:
    """The pictures of a check that compare no distributions."""

    matrices: tuple[Matrix, ...]
    shapes: tuple[Shapes, ...]
    bars: tuple[BarChart, ...]
    curves: tuple[LineChart, ...]

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.matrices or self.shapes or self.bars or self.curves)

    @property
    def in_words(self) -> dict[str, str]:
        """What they show, for those who do not see them, by what it is called."""
        told = {
            "What reads what": "; ".join(filter(None, (matrix.description for matrix in self.matrices))),
            "Shapes": "; ".join(each.description for each in self.shapes),
            "Curve": "; ".join(each.description for each in self.curves),
        }
        return {label: text for label, text in told.items() if text}


def pictures_of(details: Mapping[str, Any]) -> Pictures:
    """The pictures in the details of a check."""
    bars = (*layers_of(details), *parities_of(details))
    return Pictures(tuple(matrices_of(details)), tuple(shapes_of(details)), bars, tuple(curves_of(details)))


def _shapes(plot: Mapping[str, Any]) -> Shapes | None:
    rows = plot.get("rows")
    if (
        not isinstance(rows, (list, tuple))
        or not rows
        or not all(isinstance(row, (list, tuple)) and len(row) == 3 for row in rows)
    ):
        return None
    told = tuple((str(module), str(read), str(returned)) for module, read, returned in rows)
    return Shapes(
        str(plot.get("title") or "Shapes along the call"), str(plot.get("caption") or ""), told, str(plot.get("blamed") or "")
    )


def _parity(plot: Mapping[str, Any]) -> BarChart | None:
    labels, notes = _texts(plot.get("labels")), _texts(plot.get("notes"))
    values, bounds = _numbers(plot.get("values")), _numbers(plot.get("bounds"))
    if not labels or not len(labels) == len(notes) == len(values) == len(bounds) or min(values) < 0:
        return None
    longest, bars = max(values) or 1.0, []
    for label, value, bound, note in zip(labels, values, bounds, notes, strict=True):
        is_wrong = bool(note) or value > bound
        text = note or f"{figure(value)}{f', allowed {figure(bound)}' if is_wrong else ''}"
        bars.append(Bar(label, text, (1.0 if note else value / longest,), "", is_wrong))
    wrong = [bar.label for bar in bars if bar.alarming]
    told = (
        f"Too far apart at {counted(len(wrong), 'size')} of {len(bars)}: {'; '.join(wrong[:_MOST_TOLD])}."
        if wrong
        else "Equal at all."
    )
    return BarChart(str(plot.get("title") or ""), str(plot.get("caption") or ""), told, tuple(bars))


def _training_curves(plot: Mapping[str, Any]) -> LineChart | None:
    lines, limits = plot.get("lines"), plot.get("limits")
    found = []
    for number, each in enumerate(lines if isinstance(lines, (list, tuple)) else ()):
        x, y = (_numbers(each.get(key)) if isinstance(each, Mapping) else [] for key in ("x", "y"))
        if not x or len(x) != len(y):
            return None
        found.append(Line(str(each.get("label") or "loss"), "current" if number == 0 else "raw", tuple(x), tuple(y)))
    if not found or max(found[0].x) <= min(found[0].x):
        return None
    low, high = min(min(line.x) for line in found), max(max(line.x) for line in found)
    levels = {str(name): _numbers([value]) for name, value in (limits if isinstance(limits, Mapping) else {}).items()}
    level = [Line(name, "reference", (low, high), (*value, *value)) for name, value in levels.items() if value]
    across, up = str(plot.get("x") or "step"), str(plot.get("y") or "loss")
    values = [value for value in found[0].y if value is not None]
    told = f"The {up} begins at {figure(values[0])} and is {figure(values[-1])} after {counted(int(found[0].x[-1]), across)}"
    told += f", at its lowest {figure(min(values))}" if min(values) < min(values[0], values[-1]) else ""
    told += "".join(f"; {line.label}: {figure(line.y[0] or 0.0)}" for line in level) + "."
    axes = Axis(across, low, high, whole=True), Axis(up)
    return LineChart(str(plot.get("title") or ""), str(plot.get("caption") or ""), told, (*level, *reversed(found)), *axes)


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
