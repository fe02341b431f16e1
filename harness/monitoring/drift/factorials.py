"""Logarithms of factorials and of binomial probabilities, for whole arrays; NumPy has none, and SciPy is slow to import."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SHIFT = 8
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188)
_TABLE = 1 << 14


def log_gamma(x: Any) -> NDArray[np.float64]:
    """The logarithm of the gamma function by Stirling's series, accurate to about 1e-12.

    Args:
        x: Positive numbers, any shape.
    """
    x = np.asarray(x, np.float64)
    shifted = x + _SHIFT
    series = sum(c / shifted ** (2 * i + 1) for i, c in enumerate(_STIRLING))
    falling = np.log(np.multiply.reduce([x + i for i in range(_SHIFT)]))
    return (shifted - 0.5) * np.log(shifted) - shifted + 0.5 * math.log(2 * math.pi) + series - falling


def log_factorial(numbers: Any) -> NDArray[np.float64]:
    """The logarithm of ``k!``.

    Args:
        numbers: Whole numbers from 0, any shape.
    """
    k = np.asarray(numbers)
    return _small()[k] if k.max(initial=0) < _TABLE else log_gamma(k + 1.0)


def log_binomial(successes: Any, trials: int, share: float) -> NDArray[np.float64]:
    """The logarithm of a binomial probability.

    Args:
        successes: Whole numbers from 0 to ``trials``, any shape.
        trials: How many there are.
        share: Probability of a success, between 0 and 1, both excluded.
    """
    k = np.asarray(successes)
    choices = log_factorial(trials) - log_factorial(k) - log_factorial(trials - k)
    return choices + k * math.log(share) + (trials - k) * math.log1p(-share)


@cache
def _small() -> NDArray[np.float64]:
    return np.cumsum(np.log(np.maximum(np.arange(_TABLE, dtype=np.float64), 1.0)))
