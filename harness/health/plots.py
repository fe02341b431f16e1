"""Plots of a check: how something was distributed, and how it is now.

They come as JSON in ``details["plots"]``, a list of::

    {"title": "age", "caption": "...", "kind": "numeric", "reference": [0.1, 0.5, 0.4], "current": [0.2, 0.6, 0.2], "edges": [30, 50]}
    {"title": "city", "caption": "...", "kind": "categorical", "reference": [0.3, 0.7], "current": [0.5, 0.5], "labels": ["Rome", "Oslo"]}

Numbers are shares. Of a numeric plot the first lies below all edges, the last above them. ``feature`` and ``contribution``, where a plot has
them, make the ranking. What is not of that form is left out, as a check's details may hold anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from harness.health.report import CheckResult

BAR_ROW = 40
"""Pixels of height that one label takes: its name above its two bars."""

CURVE_HEIGHT = 160
_MOST_TICKS = 5
_LEAST_SPAN = 1e-300


@dataclass(frozen=True)
class Mark:
    """A labelled place on the axis of values, in percent of its width."""

    x: float
    label: str
    anchor: str


@dataclass(frozen=True)
class Pair:
    """Shares of the same bin or level, from 0 to 1."""

    label: str
    reference: float
    current: float


@dataclass(frozen=True)
class Comparison:
    """A plot of two distributions.

    Attributes:
        title: What it is of.
        caption: What is to be seen.
        description: The same for those who do not see it.
        pairs: The shares, for bars and for the table, which leaves out bins that both sides leave empty.
        marks: On the axis of a numeric plot.
        reference_line: Its share of values below, as points of an SVG polyline in percent; empty for a categorical plot.
        current_line: The same of the window.
    """

    title: str
    caption: str
    description: str
    pairs: tuple[Pair, ...]
    marks: tuple[Mark, ...] = ()
    reference_line: str = ""
    current_line: str = ""

    @property
    def widest(self) -> float:
        """The largest share, which the longest bar stands for."""
        return max((max(pair.reference, pair.current) for pair in self.pairs), default=0.0) or 1.0


def comparisons_of(check: CheckResult) -> list[Comparison]:
    """The plots of a check."""
    return [plot for plot in map(_comparison, _found(check)) if plot is not None]


def ranking(check: CheckResult) -> str:
    """``age 64%, city 20%``: what the plots' features contribute; empty where that is not said of two or more."""
    shares = [(str(one.get("feature") or one.get("title")), one.get("contribution")) for one in _found(check)]
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


def _edge(value: float) -> str:
    if abs(value) < _LEAST_SPAN:
        return "0"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def _found(check: CheckResult) -> list[dict[str, Any]]:
    plots = check.details.get("plots")
    return [one for one in plots if isinstance(one, dict)] if isinstance(plots, (list, tuple)) else []


def _comparison(plot: dict[str, Any]) -> Comparison | None:
    before, now = _numbers(plot.get("reference")), _numbers(plot.get("current"))
    if not before or len(before) != len(now):
        return None
    title, caption = str(plot.get("title") or "unnamed"), str(plot.get("caption") or "")
    edges, labels = _numbers(plot.get("edges")), plot.get("labels")
    if plot.get("kind") == "numeric" and len(edges) == len(before) - 1 and edges and 0 < edges[-1] - edges[0] < math.inf:
        return _curves(title, caption, edges, before, now)
    if plot.get("kind") == "categorical" and isinstance(labels, (list, tuple)) and len(labels) == len(before):
        pairs = tuple(Pair(str(label), *both) for label, *both in zip(labels, before, now, strict=True))
        return Comparison(title, caption, _told(title, pairs), pairs)
    return None


def _curves(title: str, caption: str, edges: Sequence[float], before: Sequence[float], now: Sequence[float]) -> Comparison:
    pairs = tuple(Pair(*row) for row in zip(bin_labels(edges), before, now, strict=True) if row[1] or row[2])
    lines = [_line(edges, shares) for shares in (before, now)]
    below = [list(accumulate(shares))[:-1] for shares in (before, now)]
    gap = max(range(len(edges)), key=lambda place: abs(below[0][place] - below[1][place]))
    description = (
        f"Share of the values of {title} below each value, in the reference and now. They are furthest apart at {_edge(edges[gap])}: "
        f"{below[0][gap]:.1%} of the reference lie below it, and {below[1][gap]:.1%} now."
    )
    return Comparison(title, caption, description, pairs, _axis(edges[0], edges[-1]), *lines)


def _line(edges: Sequence[float], shares: Sequence[float]) -> str:
    """The share of values below each edge, which runs from the left end of the axis to its right one."""
    span = edges[-1] - edges[0]
    points = zip(edges, accumulate(shares), strict=False)  # behind the last edge the rest lies, no one knows where
    return " ".join(f"{100 * (edge - edges[0]) / span:.2f},{100 * (1 - min(below, 1.0)):.2f}" for edge, below in points)


def _axis(low: float, high: float) -> tuple[Mark, ...]:
    """Round numbers from low to high; none where these are too far apart for arithmetic, or too near."""
    if not _LEAST_SPAN < high - low < 1 / _LEAST_SPAN:
        return ()
    step = 10.0 ** math.floor(math.log10(high - low))
    step = next(step * times for times in (0.2, 0.5, 1, 2, 5) if (high - low) / (step * times) <= _MOST_TICKS)
    first = math.ceil(low / step)
    values = [step * number for number in range(first, math.floor(high / step) + 1)]
    places = [100 * (value - low) / (high - low) for value in values]
    return tuple(Mark(round(x, 2), f"{value:.6g}", _anchor(x)) for x, value in zip(places, values, strict=True))


def _anchor(x: float) -> str:
    return "start" if x < 5 else "end" if x > 95 else "middle"


def _told(title: str, pairs: Sequence[Pair]) -> str:
    most = max(pairs, key=lambda pair: abs(pair.current - pair.reference))
    return (
        f"Shares of the values of {title}, in the reference and now, {len(pairs)} in all. The largest change is that of {most.label}, "
        f"from {most.reference:.1%} to {most.current:.1%}."
    )


def _numbers(values: Any) -> list[float]:
    """Finite numbers as they stand; none where something else is among them."""
    if not isinstance(values, (list, tuple)):
        return []
    is_fit = all(isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) for value in values)
    return [float(value) for value in values] if is_fit else []
