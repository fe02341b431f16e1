"""Levels that the reference never had."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from harness.monitoring.drift.categorical import chi_square_constant
from harness.monitoring.drift.cells import present
from harness.monitoring.drift.contingency import cramers_v
from harness.monitoring.drift.difference import Difference
from harness.monitoring.drift.effect import Effect, Resolution
from harness.monitoring.profiles.features import CategoricalCounts

_NEGLIGIBLE = 1e-6


def compare_unseen(feature: str, reference: CategoricalCounts, current: CategoricalCounts, floor: float) -> list[Difference]:
    """Whether a window has more values of new levels than a reference would itself have had.

    Had one of its values been held out, the reference would not have known its level as often as it has levels that it saw once: their
    share estimates that of new ones (Good 1953). Nothing where the profile cannot tell, or where there is none of either.

    Args:
        feature: Name of the feature.
        reference: Its counts in the reference.
        current: Its counts in the window.
        floor: The least Cramér's V that matters.
    """
    m, n = present(reference), present(current)
    if current.once is None or current.known is None or current.clusters is not None or not (m and n):
        return []
    if not (current.once or current.unseen):
        return []
    before = np.array([m - current.once, current.once])
    now = np.array([n - current.unseen, current.unseen])
    value, low, high = cramers_v(before, now)
    effect = (
        (value, low, high) if current.unseen * m > current.once * n else (0.0, 0.0, high)
    )  # fewer than expected are none too many
    seen, expected = f"{current.unseen / n:.1%}", f"{current.once / m:.1%}"
    found = Difference(
        feature=feature,
        aspect="new levels",
        test="Good-Turing",
        p=unseen_p_value(m, n, current.once, current.unseen),
        effect=Effect("Cramér's V", *effect, floor),
        resolution=Resolution(partial(chi_square_constant, df=1), m, n),
        where=f"{seen} are of levels that the reference never had, where {expected} were to be expected",
    )
    return [found]


def unseen_p_value(m: int, n: int, once: int, unseen: int) -> float:
    """A bound on the probability of so many values of levels that the reference does not have.

    Dealing out the values of all levels at random, each of the window's unseen values is worth ``n / m`` of the reference's single ones on
    average, with a variance of ``(n/m) f1 + (n/m)^2 (f1 + 2 f2)``, where ``f2`` levels are there twice. A level dealt ``T`` values has one or
    two with a ratio of about half its mean, and with a mean beyond ``log m`` has neither; so ``f2`` is below ``f1 log(m) / 2``. Bernstein's
    inequality bounds the tail, a level being unlikely to hide more than a few values from the reference.

    Args:
        m: Values of the reference.
        n: Values of the window.
        once: Levels that the reference has once.
        unseen: Values of the window whose levels the reference does not have.
    """
    ratio = n / m
    singles = once + 2 * math.sqrt(once) + 4
    excess = unseen - ratio * once
    if excess <= 0:
        return 1.0
    variance = ratio * singles + ratio**2 * singles * (1 + math.log(m + 1))
    clump = math.log((m + n) / _NEGLIGIBLE) / math.log1p(1 / ratio)
    return min(1.0, math.exp(-(excess**2) / (2 * (variance + clump * excess / 3))) + _NEGLIGIBLE)
