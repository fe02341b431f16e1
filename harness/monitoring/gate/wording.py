"""Comparisons in words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.monitoring.gate.comparison import Comparison

_MOST_DECIMALS = 8


def scale(comparison: Comparison) -> float:
    """What a score is multiplied with to be told."""
    return 100.0 if comparison.is_share else 1.0


def sentence(comparison: Comparison) -> str:
    """``accuracy fell by 1.2 points (90% interval 0.6 to 1.8; p = 0.0003) on 5,000 samples; the margin is 0.5; 0.7 would have been noticed``."""
    return "; ".join(
        part for part in (_change(comparison), *_bounds(comparison), _reservation(comparison), _worst_slice(comparison)) if part
    )


def _change(comparison: Comparison) -> str:
    where = f" in {comparison.slice}" if comparison.slice else ""
    samples = f"on {comparison.samples:,} samples"
    if comparison.is_same:
        return f"{comparison.label}{where} is the same: so is every score, {samples}"
    return f"{comparison.label}{where} {_moved(comparison)} ({_certainty(comparison)}) {samples}"


def _moved(comparison: Comparison) -> str:
    if comparison.difference == 0:
        return "did not change on average"
    return f"{_verb(comparison)} by {_figure(comparison, abs(comparison.difference))}{_unit(comparison)}"


def _verb(comparison: Comparison) -> str:
    return "fell" if comparison.difference < 0 else "rose"


def _certainty(comparison: Comparison) -> str:
    """The interval in the direction of the verb, and p."""
    low, high = comparison.interval if comparison.difference >= 0 else tuple(-end for end in reversed(comparison.interval))
    ends = f"{_figure(comparison, low)} to {_figure(comparison, high)}"
    adjusted = "adjusted " if comparison.p_adjusted > comparison.p else ""
    return f"{100 * (1 - 2 * comparison.alpha):.3g}% interval {ends}; {adjusted}{p_value(comparison.p_adjusted)}"


def _bounds(comparison: Comparison) -> tuple[str, ...]:
    if comparison.is_same:
        return ()
    noticed = "no worsening would" if comparison.detectable is None else f"{_figure(comparison, comparison.detectable)} would"
    return f"the margin is {_number(comparison.margin * scale(comparison))}", f"{noticed} have been noticed"


def _reservation(comparison: Comparison) -> str:
    """What keeps the figures from being a plain yes or no."""
    parts = []
    if comparison.is_significant and not comparison.is_beyond_margin:
        parts.append("it is worse, though within the margin")
    elif comparison.is_beyond_margin and not comparison.is_significant:
        parts.append("that is beyond the margin, but may be chance")
    if not comparison.is_significant and not comparison.can_tell:
        parts.append(_cannot_tell(comparison))
    return ": ".join(parts)


def _cannot_tell(comparison: Comparison) -> str:
    look = f" at look {comparison.look} at this baseline" if comparison.look > 1 else ""
    return (
        f"cannot tell: a worsening by the margin would be seen in {100 * comparison.power:.0f}% of such comparisons{look}; "
        f"needs n ≥ {comparison.needed:,} for 80%"
    )


def _worst_slice(comparison: Comparison) -> str:
    worst = comparison.worst_slice
    if worst is None:
        return ""
    worse = sum(part.is_significant for part in comparison.slices)
    rank = f", the worst of {worse} such slices," if worse > 1 else ""
    return f"in {worst.slice}{rank} it {_moved(worst)} ({_certainty(worst)}) on {worst.samples:,} samples"


def p_value(p: float) -> str:
    """``p = 0.0003``."""
    if p < 1e-4:
        return "p < 0.0001"
    return f"p = {p:.2g}" if p < 0.0995 else f"p = {p:.2f}"


def _unit(comparison: Comparison) -> str:
    return " points" if comparison.is_share else ""


def _figure(comparison: Comparison, value: float) -> str:
    """A difference with the decimals that its interval leaves meaningful."""
    low, high = comparison.interval
    width = (high - low) * scale(comparison)
    told = value * scale(comparison)
    if width <= 0:
        return _number(told)
    decimals = min(max(1 - math.floor(math.log10(width)), 0), _MOST_DECIMALS)
    return f"{told + 0.0:,.{decimals}f}"


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
