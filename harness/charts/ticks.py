"""The ends and the ticks of an axis, where its facts leave them open; round values are found by matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from harness.charts.facts import Axis, Tick

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
        # A constant, or one but for rounding, gets a range of its own size.
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
