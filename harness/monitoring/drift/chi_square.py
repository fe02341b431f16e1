"""The chi-square distribution: its tail, the noncentrality that a test sees, and those that a statistic leaves possible.

SciPy is imported when first asked: its special functions take a quarter of a second to load, and numbers are compared without them.
"""

from __future__ import annotations

from functools import lru_cache


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
