"""Accuracy where there are labels, of a window against a reference of which only counts are kept."""

from __future__ import annotations

import math

import numpy as np

from harness.monitoring.features.counts import NumericCounts
from harness.monitoring.harm import AccuracyEstimate
from harness.monitoring.profiles.profile import Profile

_CORRECT = "score.correct"
_Z = 1.959964


def measured_accuracy(reference: Profile, window: Profile) -> AccuracyEstimate | None:
    """How often a model is right in a window; ``None`` where either has no labels, or a row has more than one answer.

    Args:
        reference: The reference.
        window: The window, counted on its scales.
    """
    before, now = reference.features.get(_CORRECT), window.features.get(_CORRECT)
    if not (isinstance(before, NumericCounts) and isinstance(now, NumericCounts) and before.finite and now.finite):
        return None
    return _estimate(_right(before), before.finite, _right(now), now.finite)


def _right(counts: NumericCounts) -> int:
    """How many values are 1; a profile of zeros and ones keeps them in bins of their own."""
    return int(counts.counts[np.searchsorted(counts.edges, 1.0, side="right")])


def _estimate(right_before: int, before: int, right_now: int, now: int) -> AccuracyEstimate:
    """The accuracies, and Newcombe's interval of their difference (1998, "Interval estimation for the difference ...", method 10)."""
    p, (low_p, high_p) = right_before / before, _wilson(right_before, before)
    q, (low_q, high_q) = right_now / now, _wilson(right_now, now)
    least = p - q - math.hypot(p - low_p, high_q - q)
    most = p - q + math.hypot(high_p - p, q - low_q)
    return AccuracyEstimate(q, (low_q, high_q), p, p - q, (least, most), now, before, is_measured=True)


def _wilson(right: int, n: int) -> tuple[float, float]:
    """The 95% score interval of a share (Wilson 1927)."""
    share, z2 = right / n, _Z**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    reach = _Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, middle - reach), min(1.0, middle + reach)
