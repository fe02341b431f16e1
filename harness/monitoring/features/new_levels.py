"""Levels that the reference never had: whether a window has more values of them than a reference would itself have had."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial

import numpy as np

from harness.monitoring import DriftOptions
from harness.monitoring.features import Difference, Effect, Resolution
from harness.monitoring.features.category_drift import chi_square_constant
from harness.monitoring.features.counts import CategoricalCounts
from harness.monitoring.features.ranges import written_otherwise
from harness.monitoring.statistics import cramers_v

NEW_LEVELS = "new levels"
"""The aspect of a difference that is about levels which the reference does not have."""


def compare_unseen(
    feature: str, reference: CategoricalCounts, current: CategoricalCounts, options: DriftOptions
) -> Iterable[Difference]:
    """Whether a window has more values of new levels than a reference would itself have had.

    Had one of its values been held out, the reference would not have known its level as often as it has levels that it saw once: their
    share estimates that of new ones (Good 1953). Nothing where the profile cannot tell, or where there is none of either.
    """
    m, n = reference.present, current.present
    if current.once is None or current.known is None or current.clusters is not None or not (m and n):
        return []
    if not (current.once or current.unseen):
        return []
    before = np.array([m - current.once, current.once])
    now = np.array([n - current.unseen, current.unseen])
    value, low, high = cramers_v(before, now)
    # Fewer than expected are none too many.
    effect = (value, low, high) if current.unseen * m > current.once * n else (0.0, 0.0, high)
    seen, expected = f"{current.unseen / n:.1%}", f"{current.once / m:.1%}"
    found = Difference(
        feature=feature,
        aspect=NEW_LEVELS,
        test="Good-Turing",
        p=unseen_p_value(m, n, current.once, current.unseen),
        effect=Effect("Cramér's V", *effect, options.floors.cramers_v),
        resolution=Resolution(partial(chi_square_constant, df=1), m, n),
        where=f"{seen} of the values are levels that the reference does not have{_named(reference, current)}, {expected} expected",
    )
    return [found]


def _named(reference: CategoricalCounts, current: CategoricalCounts) -> str:
    """`` ('aa', 'as' …; 'aa' is 'AA' in another case)``, or nothing of a profile that names none."""
    if not current.new:
        return ""
    meant = written_otherwise(current.new, reference.levels)
    more = " …" if len(current.new) > _NEW_SHOWN else ""
    return f" ({', '.join(map(repr, current.new[:_NEW_SHOWN]))}{more}{f'; {meant}' if meant else ''})"


_NEW_SHOWN = 3
_NEGLIGIBLE = 1e-6


def unseen_p_value(m: int, n: int, once: int, unseen: int) -> float:
    """A bound on the probability of so many values of levels that the reference does not have: the better of two, corrected for both.

    Args:
        m: Values of the reference.
        n: Values of the window.
        once: Levels that the reference has once.
        unseen: Values of the window whose levels the reference does not have.
    """
    if unseen * m <= n * once:
        return 1.0
    return min(1.0, 2 * min(_by_variance(m, n, once, unseen), _by_singles(m, n, once, unseen)))


def _by_variance(m: int, n: int, once: int, unseen: int) -> float:
    """Bernstein's inequality; the better one where the reference has many single levels.

    Dealing out the values of all levels at random, each of the window's unseen values is worth ``n / m`` of the reference's single ones on
    average, with a variance of ``(n/m) f1 + (n/m)^2 (f1 + 2 f2)``, where ``f2`` levels are there twice. A level dealt ``T`` values has one or
    two with a ratio of about half its mean, and with a mean beyond ``log m`` has neither; so ``f2`` is below ``f1 log(m) / 2``. A level is
    unlikely to hide more than a few values from the reference.
    """
    ratio = n / m
    singles = once + 2 * math.sqrt(once) + 4
    excess = unseen - ratio * once
    variance = ratio * singles + ratio**2 * singles * (1 + math.log(m + 1))
    clump = math.log((m + n) / _NEGLIGIBLE) / math.log1p(1 / ratio)
    return math.exp(-(excess**2) / (2 * (variance + clump * excess / 3))) + _NEGLIGIBLE


def _by_singles(m: int, n: int, once: int, unseen: int) -> float:
    """Chernoff's bound on unseen and single values together; the better one where the reference has few single levels.

    A level of ``T`` values is wholly in the window with a probability of ``q^T``, where ``q = n / (m + n)``, and has one value in the reference
    with ``T (1 - q) q^(T-1)``. So ``exp(a U - b F)`` of the unseen values ``U`` and the single levels ``F`` has a mean of at most
    ``exp((m + n) max_T e(T) / T)``, where ``e(T) = q^T (exp(a T) - 1) - T (1 - q) q^(T-1) (1 - exp(-b))``, for any ``a`` and ``b``. Values are
    dealt out independently there, so that the probability of a window of just ``n`` is divided by.
    """
    share = math.log(n / (m + n))
    sizes = np.unique(np.geomspace(1, m + n, 800).round())
    rise = -share * np.array([0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95])[:, None, None]
    kept = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.97, *([] if once else [1.0])])[:, None]
    hidden, single = np.exp(share * sizes), sizes * (m / (m + n)) * np.exp(share * (sizes - 1))
    excess = np.exp((rise + share) * sizes) - hidden - single * kept
    most = (m + n) * np.maximum(excess / sizes, 0).max(axis=-1)
    fall = -np.log1p(-kept[:, 0]) * once if once else 0.0
    logs = most - rise[..., 0] * unseen + fall
    return math.exp(min(0.0, float(logs.min()) + math.log1p(math.sqrt(2 * math.pi * m * n / (m + n)))))
