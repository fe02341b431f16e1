"""Axes: where a value stands between two ends, and the ticks a reader needs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from harness.wording import figure

_MARGIN = 0.06
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_FINE_DECADES = 1.4
"""Below this many decades a log axis gets ticks at 2 and 5 too."""


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis, from 0 at its low end to 1 at its high end."""

    place: float
    value: float
    label: str


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic axis.

    Attributes:
        low: The value at its low end.
        high: The value at its high end.
        log: Whether equal ratios, rather than equal differences, are equally far apart.
        most_ticks: How many ticks there may be.
        whole: Whether only whole numbers are worth a tick.
    """

    low: float
    high: float
    log: bool = False
    most_ticks: int = 6
    whole: bool = False

    def place(self, value: float) -> float:
        """Where a value stands: 0 at the low end, 1 at the high end."""
        if self.log:
            low, high = math.log10(self.low), math.log10(self.high)
            return (math.log10(value) - low) / (high - low)
        return (value - self.low) / (self.high - self.low)

    @property
    def ticks(self) -> tuple[Tick, ...]:
        """Ticks at round values, the lowest first."""
        values = self._log_values() if self.log else self._linear_values()
        if not values:  # so narrow that nothing round lies between
            values = [self.low, self.high]
        decades = self.log and self.high / self.low > 10
        labels = [_log_label(value) for value in values] if decades else linear_labels(values)
        return tuple(Tick(self.place(value), value, label) for value, label in zip(values, labels, strict=True))

    def _linear_values(self) -> list[float]:
        step = _round_step((self.high - self.low) / max(self.most_ticks - 1, 1), whole=self.whole)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)] if last - first < 4 * self.most_ticks else []

    def _log_values(self) -> list[float]:
        low, high = math.log10(self.low), math.log10(self.high)
        if high - low < _FINE_DECADES:
            return self._fine_values(math.floor(low), math.ceil(high))
        exponents = range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)
        return [10.0**exponent for exponent in exponents[:: math.ceil(len(exponents) / self.most_ticks)]]

    def _fine_values(self, low: int, high: int) -> list[float]:
        for mantissas in ((1, 2, 5), (1, 2, 3, 4, 5, 6, 7, 8, 9)):
            found = [mantissa * 10.0**exponent for exponent in range(low, high + 1) for mantissa in mantissas]
            found = [value for value in found if self.low <= value <= self.high]
            if len(found) >= 2:
                return found[:: math.ceil(len(found) / self.most_ticks)]
        # Less than a ninth of a decade: as good as linear.
        return Axis(self.low, self.high, most_ticks=self.most_ticks)._linear_values()


def step_axis(first: int, last: int) -> Axis:
    """The axis of steps; it begins at 0 unless the run is known only from a later step on."""
    low = 0 if first <= 1 + (last - first) // 20 else first
    return Axis(float(low), float(max(last, low + 1)), most_ticks=5, whole=True)


def value_axis(values: Iterable[float], *, log: bool = False, from_zero: bool = False, most_ticks: int = 5) -> Axis | None:
    """The axis that shows values with a margin; ``None`` when there are none.

    Args:
        values: Finite; positive when ``log``.
        log: Whether the axis is logarithmic.
        from_zero: Whether 0 belongs on the axis of values that are all positive.
        most_ticks: How many ticks there may be.
    """
    found = list(values)
    if not found:
        return None
    low, high = min(found), max(found)
    if log:
        margin = max((high / low) ** _MARGIN, 1.05) if high / low < math.inf else 10.0
        return Axis(low / margin, high * margin, log=True, most_ticks=most_ticks)
    if low >= 0 and (from_zero or low <= 0.3 * high) and high > 0:
        return Axis(0.0, high * (1 + _MARGIN), most_ticks=most_ticks)
    # A constant, or one but for rounding, gets a range of its own size.
    margin = (high - low) * _MARGIN if high - low > 1e-9 * abs(high) else abs(high) * 0.1 or 1.0
    return Axis(low - margin, high + margin, most_ticks=most_ticks)


def linear_labels(values: Sequence[float]) -> list[str]:
    """The labels of equally spaced ticks: as many decimals as tell them apart, ``20k`` for thousands, ``2e-4`` for the tiny."""
    largest = max(map(abs, values), default=0.0)
    if largest >= 1e7 or 0 < largest < 1e-3:
        return list(_scientific(values))
    spacing = abs(values[-1] - values[0]) / (len(values) - 1) if len(values) > 1 else largest
    unit, suffix = (1e6, "M") if spacing >= 1e6 else (1e3, "k") if largest >= 1e4 else (1.0, "")
    decimals = next((count for count in range(7) if _exact(values, unit, count)), 7)
    return [f"{value / unit:,.{decimals}f}{suffix}" if abs(value) > 1e-9 * largest else "0" for value in values]


def number_text(value: float) -> str:
    """A number for people in four digits: ``1.457``, ``25,600``, ``3.1e-5``, ``nan``."""
    return figure(value, 4)


def column_texts(values: Sequence[float | None]) -> list[str]:
    """The numbers of a table's column, with as many decimals each as its middle value needs for four digits; none is empty."""
    sizes = sorted(abs(value) for value in values if value is not None and math.isfinite(value) and value != 0)
    if not sizes or sizes[0] < 1e-4 or sizes[-1] >= 1e6:
        return ["" if value is None else number_text(value) for value in values]
    decimals = min(max(3 - math.floor(math.log10(sizes[len(sizes) // 2])), 0), 6)
    return ["" if value is None else f"{value:,.{decimals}f}" if math.isfinite(value) else str(value) for value in values]


def _scientific(values: Sequence[float]) -> Iterator[str]:
    for value in values:
        mantissa, exponent = f"{value:.2e}".split("e")
        yield f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}" if value else "0"


def _exact(values: Sequence[float], unit: float, decimals: int) -> bool:
    spread = max(values) - min(values) or abs(values[0]) or 1.0
    return all(abs(round(value / unit, decimals) * unit - value) < 1e-6 * spread for value in values)


def _log_label(value: float) -> str:
    return f"{value:g}" if 1e-3 <= value < 1e4 else next(_scientific([value]))


def _round_step(least: float, *, whole: bool) -> float:
    """The smallest round number from ``least`` on."""
    power = 10.0 ** math.floor(math.log10(least))
    step = next(factor * power for factor in _STEPS if factor * power >= least * (1 - 1e-9))
    if not whole:
        return step
    return 1.0 if step < 1 else 5.0 if step == 2.5 else step
