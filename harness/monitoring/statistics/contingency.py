"""Two samples of categories compared, both of them random: the chi-square test, permutations, Cramér's V.

SciPy is imported when first needed: its special functions take a quarter of a second to load, and numbers are compared without them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from harness.monitoring.statistics.kolmogorov import ks_p_value

Counts = NDArray[np.int64]

_PLENTY = 20.0  # expected in a cell, from which on the chi-square distribution holds far into its tail
_CLEARLY_NONE = 0.3
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
    Here both samples weigh the same; for samples of one size this is Bergsma's V. The interval is that of the noncentrality, so that it
    agrees with the test.

    Args:
        reference: Counts by category, ``[K]``, not all 0.
        current: Counts by category.
        design: How many values count as one independent value.

    Returns:
        V, and the lower and the upper end of its interval.
    """
    p, q = reference / reference.sum(), current / current.sum()
    size = max(effective_size(int(reference.sum()), int(current.sum())) / design, 3.0)
    phi2, df = float(((p - q) ** 2 / (2 * (p + q))).sum()), len(reference) - 1
    low, high = (math.sqrt(min(1.0, end / size)) for end in noncentrality_interval(size * phi2, df))
    value = max(0.0, phi2 - df / (size - 1)) / (1 - 1 / (size - 1))
    return math.sqrt(min(1.0, value)), low, high


def effective_size(m: int, n: int) -> float:
    """Rows of two samples of one size that show as much as ``m`` and ``n`` do."""
    return 4 * m * n / (m + n)


def chi_square_tail(value: float, df: float) -> float:
    """Probability of a larger value.

    Args:
        value: At least 0.
        df: Degrees of freedom, above 0.
    """
    from scipy.special import chdtrc

    return float(chdtrc(df, value))


@lru_cache(maxsize=4096)
def noncentrality_for(power: float, alpha: float, df: float) -> float:
    """The noncentrality at which a test at level ``alpha`` rejects with probability ``power``; 0 where any does.

    Args:
        power: Between 0 and 1, both excluded.
        alpha: Between 0 and 1, both excluded.
        df: Degrees of freedom, above 0.
    """
    from scipy.special import chdtri, chndtrinc

    return float(chndtrinc(chdtri(df, alpha), df, 1 - power)) if power > alpha else 0.0


def noncentrality_interval(statistic: float, df: float, confidence: float = 0.95) -> tuple[float, float]:
    """The noncentralities under which a statistic is neither too large nor too small (Smithson 2003, "Confidence intervals").

    A statistic below its mean without any difference leaves as much possible as that mean.

    Args:
        statistic: At least 0.
        df: Degrees of freedom, above 0.
        confidence: How often the interval holds the true one.
    """
    from scipy.special import chdtr, chndtrinc

    tail = (1 - confidence) / 2
    low = float(chndtrinc(statistic, df, 1 - tail)) if chdtr(df, statistic) > 1 - tail else 0.0
    return low, float(chndtrinc(max(statistic, df), df, tail))


_ENOUGH = 20
_FIRST_BATCH = 64
_BATCH = 512


def permutation_p_value(observed: float, draw: Callable[[int], NDArray[np.float64]], draws: int) -> float:
    """Share of statistics at least as large as the observed one, drawn until it is clear (Besag and Clifford 1991).

    Twenty that are as large are enough to know that the share is not small; their number over that of all drawn until then is a valid p-value
    as well, at a fraction of the work where there is no drift.

    Args:
        observed: The statistic of the samples as they are.
        draw: Draws so many statistics without drift.
        draws: How many to draw at most; the p-value is at least ``1 / (draws + 1)``.
    """
    least = observed - 1e-9 * abs(observed)  # equal ones may differ by rounding
    larger = drawn = 0
    while drawn < draws:
        statistics = draw(min(_BATCH if drawn else _FIRST_BATCH, draws - drawn))
        hits = np.flatnonzero(statistics >= least)
        if larger + len(hits) >= _ENOUGH:
            return _ENOUGH / (drawn + int(hits[_ENOUGH - larger - 1]) + 1)
        larger += len(hits)
        drawn += len(statistics)
    return (larger + 1) / (drawn + 1)
