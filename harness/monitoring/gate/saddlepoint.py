"""Saddlepoint approximations: how likely a sum of random numbers reaches a value, without drawing any.

A sum's cumulant generating function ``K`` gives its distribution far more exactly than a normal curve does, and as exactly in its tails as
in its middle (Daniels 1954; Lugannani and Rice 1980). The tail is read off the modified root ``r* = w + log(u / w) / w`` (Barndorff-Nielsen
1986), with ``w`` the signed root of twice ``t x - K(t)`` and ``u = t sqrt(K''(t))`` at the tilt ``t`` for which ``K'(t) = x``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

_STEPS = 100
_PRECISION = 1e-9
_MIDDLE = 1e-3
_LARGEST_CORRECTION = 0.5


class Cumulants(NamedTuple):
    """``K(t)`` of a sum and its first two derivatives."""

    value: float
    slope: float
    curvature: float


CumulantsAt = Callable[[float], Cumulants]


def tilt_of(cumulants: CumulantsAt, target: float) -> float:
    """The tilt at which the mean of the sum is ``target``, which lies strictly between the least and the greatest sum."""

    def excess(tilt: float) -> tuple[float, float]:
        at = cumulants(tilt)
        return at.slope - target, at.curvature

    return _root(excess)


def tilt_at_score(cumulants: CumulantsAt, score: float) -> float:
    """The tilt whose mean is the quantile of the sum at a standard normal score."""

    def excess(tilt: float) -> tuple[float, float]:
        at = cumulants(tilt)
        root = _signed_root(tilt, at)
        return normal_score(tilt, at) - score, (tilt * at.curvature / root if root else math.sqrt(at.curvature))

    return _root(excess)


def normal_score(tilt: float, at: Cumulants) -> float:
    """``r*``: the standard normal quantile of the probability that the sum is at most ``at.slope``."""
    root = _signed_root(tilt, at)
    steepness = tilt * math.sqrt(max(at.curvature, 0.0))
    if abs(root) < _MIDDLE or steepness == 0:
        return root
    correction = math.log(steepness / root) / root
    # Where a few values make up the whole sum, it takes few values itself, and the curve through them has no tail to speak of.
    return root + min(max(correction, -_LARGEST_CORRECTION), _LARGEST_CORRECTION)


def _signed_root(tilt: float, at: Cumulants) -> float:
    return math.copysign(math.sqrt(2 * max(tilt * at.slope - at.value, 0.0)), tilt)


def _root(function: Callable[[float], tuple[float, float]]) -> float:
    """Where an increasing function is 0, by Newton's method held within what is known; far out where it nowhere is.

    Args:
        function: The function's value and its derivative.
    """
    low, high, here = -math.inf, math.inf, 0.0
    for _ in range(_STEPS):
        value, derivative = function(here)
        low, high = (here, high) if value < 0 else (low, here)
        there = here - value / derivative if derivative > 0 else math.nan
        if not low < there < high:
            there = _between(low, high, here)
        if abs(there - here) <= _PRECISION * abs(here):
            return there
        here = there
    return here


def _between(low: float, high: float, here: float) -> float:
    if math.isfinite(low) and math.isfinite(high):
        return (low + high) / 2
    return 2 * here
