"""Statistics that several rooms use: corrections for many tests at once, and the exact test of paired differences.

A sum's cumulant generating function ``K`` gives its distribution far more exactly than a normal curve does, and as exactly in its tails as
in its middle (Daniels 1954; Lugannani and Rice 1980). The tail is read off the modified root ``r* = w + log(u / w) / w`` (Barndorff-Nielsen
1986), with ``w`` the signed root of twice ``t x - K(t)`` and ``u = t sqrt(K''(t))`` at the tilt ``t`` for which ``K'(t) = x``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


def holm(p_values: Sequence[float], weights: Sequence[float] | None = None) -> list[float]:
    """Holm's step-down correction, weighted (Scandinavian Journal of Statistics 6, 1979).

    Comparing the adjusted p-values with alpha makes any error among all tests with a probability of at most alpha, however the tests depend
    on each other.

    Args:
        p_values: One per test.
        weights: The share of alpha that each test starts with; they need not add up to 1. By default all tests weigh 1.

    Returns:
        An adjusted p-value per test, in the order given.
    """
    shares = [1.0] * len(p_values) if weights is None else weights
    order = sorted(range(len(p_values)), key=lambda test: p_values[test] / shares[test])
    found = [1.0] * len(p_values)
    left, largest = float(sum(shares)), 0.0
    for test in order:
        largest = max(largest, min(1.0, p_values[test] / shares[test] * left))
        found[test] = largest
        left -= shares[test]
    return found


def false_discovery(p_values: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's q-values (1995): naming all with ``q <= alpha``, a share of alpha of the names is wrong on average.

    Args:
        p_values: One a test.

    Returns:
        A q-value a test, in the order given.
    """
    p = np.array(p_values, np.float64)
    order = np.argsort(-p, kind="stable")
    found = np.empty_like(p)
    found[order] = np.minimum.accumulate(p[order] * len(p) / np.arange(len(p), 0, -1)).clip(max=1.0)
    return found.tolist()


_ENUMERATED = 16
_TIE = 1e-9


def sign_flip_p(differences: NDArray[np.float64]) -> float:
    """The one-sided sign-flip test (Fisher 1935): the share of all sign changes of the differences that make their sum as large.

    Two models that are equal but for chance swap their scores with equal probability, so the test never exceeds its level for them, at any
    n and with tails of any weight; of 0/1 scores it is the exact McNemar test. Up to 16 differences are enumerated; beyond, the share comes
    from a saddlepoint approximation (Robinson, JRSS B 44, 1982), moved by the least difference, which is half the step between two sums
    where the differences are all alike.

    Args:
        differences: One per sample, such as by how much a candidate is worse, ``[n]``.

    Returns:
        Small where the mean is above 0 by more than chance; 1 where no difference is other than 0.
    """
    sizes = np.abs(differences[differences != 0])
    total = float(differences.sum())
    if not len(sizes):
        return 1.0
    if len(sizes) <= _ENUMERATED:
        return _enumerated(sizes, total)
    step = float(sizes.min())
    return _upper_tail(sizes, max(total - step, step - float(sizes.sum())))


def _enumerated(sizes: NDArray[np.float64], total: float) -> float:
    sums = np.zeros(1)
    for size in sizes:
        sums = np.concatenate([sums - size, sums + size])
    return float((sums >= total - _TIE * sizes.sum()).mean())


def _upper_tail(sizes: NDArray[np.float64], total: float) -> float:
    """How likely the sum of the sizes with random signs reaches ``total``."""
    from scipy.special import ndtr

    scale = math.sqrt(float(np.square(sizes).sum()))
    scaled, target = sizes / scale, total / scale
    tilt = tilt_of(lambda tilt: _cumulants(scaled, tilt), target)
    return float(ndtr(-normal_score(tilt, _cumulants(scaled, tilt))))


def _cumulants(sizes: NDArray[np.float64], tilt: float) -> Cumulants:
    value = slope = curvature = 0.0
    for part in blocks(sizes):
        tilted = np.abs(tilt) * part
        tangent = np.tanh(tilted)
        value += float((tilted + np.log1p(np.exp(-2 * tilted))).sum()) - len(part) * math.log(2)
        slope += float(part @ tangent)
        curvature += float((part * part) @ (1 - tangent * tangent))
    return Cumulants(value, math.copysign(slope, tilt), curvature)


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
    """The zero of an increasing function, by Newton's method within known bounds; far out where it has none.

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


_LENGTH = 1 << 13  # fits the cache, and BLAS does not spread so short a product over threads that wait for each other


def blocks(values: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Views of an array, one after the other."""
    for start in range(0, len(values), _LENGTH):
        yield values[start : start + _LENGTH]
