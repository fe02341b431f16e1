"""Two samples of categories compared, both of them random."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from harness.monitoring.drift.chi_square import chi_square_tail
from harness.monitoring.drift.kolmogorov import ks_p_value
from harness.monitoring.drift.permutations import permutation_p_value

Counts = NDArray[np.int64]

_PLENTY = 20.0  # expected in a cell, from which on the chi-square distribution holds far into its tail
_CLEARLY_NONE = 0.3
_Z = 1.959964
_MOST_COLORS = 10**9 - 1  # of NumPy's hypergeometric distribution


def contingency_p_value(reference: Counts, current: Counts, draws: int) -> float:
    """Probability of a chi-square as large where both samples are of one distribution.

    Two categories are counted out exactly. Of more, where some cell expects few values, the two samples are dealt out again at random, given
    how many values of both are in each category, until the answer is clear (Besag and Clifford 1991, "Sequential Monte Carlo p-values"); the
    draws are the same in every run.

    Args:
        reference: Counts by category, ``[K]``, each category with a value in either sample.
        current: Counts by category.
        draws: Most draws; the p-value cannot be below ``1 / (draws + 1)`` then.
    """
    if len(reference) < 2:
        return 1.0
    if len(reference) == 2:
        return ks_p_value(reference, current)
    statistic = chi_square(reference, current[None])[0]
    p = chi_square_tail(statistic, len(reference) - 1)
    if least_expected(reference, current) >= _PLENTY or p > _CLEARLY_NONE:
        return p
    return _dealt_out(reference + current, int(current.sum()), statistic, draws)


def chi_square(reference: Counts, current: Counts) -> NDArray[np.float64]:
    """Pearson's statistic of two samples.

    Args:
        reference: Counts by category, ``[K]`` or ``[R, K]``.
        current: Counts by category, ``[R, K]``; in each row as many as in the others.
    """
    pooled = reference + current
    share = current[0].sum() / pooled[0].sum()
    gaps = current - pooled * share
    return (gaps**2 / pooled).sum(axis=-1) / (share * (1 - share))


def least_expected(reference: Counts, current: Counts) -> float:
    """The fewest values that any cell of the table expects."""
    pooled = reference + current
    return float(pooled.min()) * min(int(reference.sum()), int(current.sum())) / int(pooled.sum())


def _dealt_out(pooled: Counts, n: int, statistic: float, draws: int) -> float:
    generator = np.random.default_rng(0)

    def draw(rows: int) -> NDArray[np.float64]:
        current = _deal(generator, pooled, n, rows)
        return chi_square(pooled - current, current)

    return permutation_p_value(statistic, draw, draws)


def _deal(generator: np.random.Generator, pooled: Counts, n: int, rows: int) -> Counts:
    """Ways to take ``n`` of the values, ``[rows, K]``."""
    total = int(pooled.sum())
    if total > _MOST_COLORS:
        return generator.multinomial(n, pooled / total, size=rows)
    return generator.multivariate_hypergeometric(pooled, n, size=rows, method="marginals")


def cramers_v(reference: Counts, current: Counts, design: float = 1.0) -> tuple[float, float, float]:
    """Cramér's V less its bias (Bergsma 2013), with a 95% interval.

    V as it is usually computed shrinks as the one sample outgrows the other, so that a reference of a million rows would hide any drift.
    Here both samples weigh the same; for samples of one size this is Bergsma's V.

    Args:
        reference: Counts by category, ``[K]``, not all 0.
        current: Counts by category.
        design: How many values count as one independent value.

    Returns:
        V, and the lower and the upper end of its interval.
    """
    m, n = int(reference.sum()), int(current.sum())
    p, q = reference / m, current / n
    size = max(4 * m * n / (m + n) / design, 2.0)
    df = len(reference) - 1
    phi2 = float(((p - q) ** 2 / (2 * (p + q))).sum()) - df / (size - 1)
    variance = 2 * df / size**2 + design * (_variance(p, q) / m + _variance(q, p) / n)  # by chance alone, and by the delta method
    margin = _Z * math.sqrt(variance)
    largest = 1 - 1 / size
    value, low, high = (math.sqrt(min(1.0, max(0.0, end) / largest)) for end in (phi2, phi2 - margin, phi2 + margin))
    return value, low, high


def _variance(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """Of phi squared by the delta method, for one value drawn from ``p``."""
    slope = (p - q) * (p + 3 * q) / (2 * (p + q) ** 2)
    return float(p @ slope**2 - (p @ slope) ** 2)
