"""The chi-square distribution, central and not: its tail, its quantiles, and the noncentrality that a test sees."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from harness.monitoring.drift.factorials import log_gamma

_ACCURACY = 1e-15
_REACH = 10.0  # standard deviations of the Poisson weights that are summed


def chi_square_tail(value: float, df: float) -> float:
    """Probability of a larger value.

    Args:
        value: At least 0.
        df: Degrees of freedom, above 0.
    """
    return _upper_gamma(df / 2, value / 2)


def noncentral_tail(value: float, df: float, noncentrality: float) -> float:
    """Probability of a larger value under a noncentral chi-square: a Poisson mixture of central ones.

    Args:
        value: At least 0.
        df: Degrees of freedom, above 0.
        noncentrality: At least 0.
    """
    mean, x = noncentrality / 2, value / 2
    reach = _REACH * math.sqrt(mean) + _REACH
    first = max(0, math.floor(mean - reach))
    terms = np.arange(first, math.ceil(mean + reach) + 1, dtype=np.float64)
    weights = np.exp(terms * math.log(mean) - mean - log_gamma(terms + 1)) if mean else np.eye(1, len(terms))[0]
    shapes = df / 2 + terms
    steps = np.exp(shapes * math.log(x) - x - log_gamma(shapes + 1)) if x else np.zeros(len(terms))
    tails = _upper_gamma(df / 2 + first, x) + np.concatenate([[0.0], np.cumsum(steps[:-1])])
    return float(min(1.0, weights @ tails))


@lru_cache(maxsize=4096)
def chi_square_critical(alpha: float, df: float) -> float:
    """The value that is exceeded with probability ``alpha``.

    Args:
        alpha: Between 0 and 1, both excluded.
        df: Degrees of freedom, above 0.
    """
    return _rising_root(lambda value: alpha - chi_square_tail(value, df), df)


@lru_cache(maxsize=4096)
def noncentrality_for(power: float, alpha: float, df: float) -> float:
    """The noncentrality at which a test at level ``alpha`` rejects with probability ``power``; 0 where any does."""
    if power <= alpha:
        return 0.0
    critical = chi_square_critical(alpha, df)
    return _rising_root(lambda noncentrality: noncentral_tail(critical, df, noncentrality) - power, 1.0)


def _rising_root(function: Callable[[float], float], start: float) -> float:
    """Where a function that rises from below 0 on the positive numbers crosses 0, to about 9 digits."""
    low, high = 0.0, start
    while function(high) < 0:
        low, high = high, 2 * high
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < 0 else (low, middle)
    return high


def _upper_gamma(a: float, x: float) -> float:
    """The regularised upper incomplete gamma function Q(a, x): a series below the mode, a continued fraction above."""
    if x <= 0:
        return 1.0
    scale = math.exp(a * math.log(x) - x - math.lgamma(a))
    return 1.0 - scale * _series(a, x) if x < a + 1 else scale * _continued_fraction(a, x)


def _series(a: float, x: float) -> float:
    term = total = 1 / a
    while term > total * _ACCURACY:
        a += 1
        term *= x / a
        total += term
    return total


def _continued_fraction(a: float, x: float) -> float:
    """Lentz's evaluation of 1/(x+1-a- 1(1-a)/(x+3-a- ...))."""
    b = x + 1 - a
    c, d = math.inf, 1 / b
    value, i = d, 0
    while True:
        i += 1
        b += 2
        an = -i * (i - a)
        d = 1 / (an * d + b)
        c = b + an / c
        value *= c * d
        if abs(c * d - 1) < _ACCURACY or i > 100_000:
            return value
