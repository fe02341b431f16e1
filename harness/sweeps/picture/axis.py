"""The values of a key as places along an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from harness.sweeps.grid import identity, shown

_LOG_SPAN = 30.0
"""Values that span more than this are drawn on a logarithmic axis."""

_LONGEST = 14


@dataclass(frozen=True)
class Axis:
    """The values of a key as places along an axis.

    Attributes:
        values: In the order in which they stand.
        places: Where they stand: the values themselves where all are numbers, else 0, 1, 2 …
        log: Whether the axis is logarithmic.
        is_number: Whether all are numbers.
    """

    values: tuple[Any, ...]
    places: tuple[float, ...]
    log: bool
    is_number: bool

    @cached_property
    def labels(self) -> list[str]:
        """The values for people."""
        short = [f"{value:.4g}" if self.is_number else shown(value) for value in self.values]
        full = short if len(set(short)) == len(short) else [shown(value) for value in self.values]
        return [label if len(label) <= _LONGEST else f"{label[:6]}…{label[-7:]}" for label in full]

    def index(self, value: Any) -> int:
        """Which of the values it is."""
        return self._indices[identity(value)]

    def limits(self) -> tuple[float, float]:
        """The ends of the axis, with a little room on both sides."""
        first, last = self.places[0], self.places[-1]
        if self.log:
            room = (last / first) ** 0.08
            return first / room, last * room
        room = (last - first) * 0.08 or 0.5 if self.is_number else 0.5
        return first - room, last + room

    def ticks(self, letters: int) -> list[int]:
        """Which of the values have a label, so that labels do not overlap.

        Args:
            letters: How many fit along the axis.
        """
        low, high = (math.log(end) for end in self.limits()) if self.log else self.limits()
        kept: list[int] = []
        free = -math.inf
        for index, (place, label) in enumerate(zip(self.places, self.labels, strict=True)):
            middle = ((math.log(place) if self.log else place) - low) / (high - low) * letters
            if middle - len(label) / 2 >= free:
                kept.append(index)
                free = middle + len(label) / 2 + 1
        return kept

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {identity(value): index for index, value in enumerate(self.values)}


def make_axis(values: Sequence[Any]) -> Axis:
    """The axis of a key's values: numbers by size, anything else in the order given."""
    if all(_is_number(value) for value in values):
        inorder = tuple(sorted(values))
        log = spans_far(inorder) or _is_geometric(inorder)
        return Axis(inorder, tuple(map(float, inorder)), log, is_number=True)
    return Axis(tuple(values), tuple(float(index) for index in range(len(values))), log=False, is_number=False)


def spans_far(values: Sequence[float]) -> bool:
    """Whether values are all above zero, and the greatest is more than 30 times the least."""
    return bool(values) and min(values) > 0 and max(values) / min(values) > _LOG_SPAN


def _is_geometric(values: Sequence[float]) -> bool:
    """Whether sorted values, such as 8, 16, 32, are more even in their ratios than in their differences."""
    if len(values) < 3 or values[0] <= 0:
        return False
    pairs = list(pairwise(values))
    gaps, ratios = [high - low for low, high in pairs], [math.log(high / low) for low, high in pairs]
    return max(ratios) / min(ratios) < max(gaps) / min(gaps)


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number; truth values are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
