"""Accuracy without labels."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from harness.monitoring.harm.confidence import as_confidence
from harness.monitoring.harm.threshold import ConfidenceThreshold

_TAIL = 0.025


@dataclass(frozen=True)
class AccuracyEstimate:
    """How often a model is right in a window without labels, as far as its confidence tells.

    The intervals are those of chance alone: of the rows that the reference and the window happen to hold. Where drift makes a model sure of
    wrong answers, the estimate is too high by more than they say.

    Attributes:
        accuracy: As estimated; that of the reference where the window is empty.
        interval: Its 95% interval.
        reference_accuracy: What it was on the labelled reference.
        loss: By how much it fell.
        loss_interval: Its 95% interval.
        n: Rows of the window.
        reference_n: Rows of the reference.
        is_measured: Whether the window has labels after all, by which this was counted and not estimated.
    """

    accuracy: float
    interval: tuple[float, float]
    reference_accuracy: float
    loss: float
    loss_interval: tuple[float, float]
    n: int
    reference_n: int
    is_measured: bool = False

    def to_json(self) -> dict[str, Any]:
        """The estimate as JSON-ready values."""
        return {**asdict(self), "interval": list(self.interval), "loss_interval": list(self.loss_interval)}


def estimate_accuracy(threshold: ConfidenceThreshold, scores: ArrayLike) -> AccuracyEstimate:
    """The share of rows that are more confident than the threshold.

    What is uncertain of it is added in squares, each on its own side, from exact intervals that are there for any number of rows (as Newcombe
    1998 does for two shares): which rows the window holds, and where the cut would be in another reference. Of the loss it is also which
    rows the reference holds. Its accuracy and its cut err together, so that of the cut's error only that part counts which is beyond it:
    nothing where the window has no more rows near the cut than the reference. A reference with fewer than about ten mistakes hardly tells
    where the cut is, and so cannot prove harm.

    Args:
        threshold: Fitted to the reference.
        scores: How sure the same model is of each row of the window, ``[M]``, by the same measure.

    Raises:
        DataError: The scores are no list of numbers.
    """
    ordered = np.sort(as_confidence(scores))
    n, m, before = len(ordered), threshold.n, threshold.accuracy
    if not n:
        return AccuracyEstimate(before, (0.0, 1.0), before, 0.0, (before - 1, before), 0, m)
    most, now, least = (cut.right_among(ordered) / n for cut in (threshold.lower, threshold.cut, threshold.upper))
    low, high = _exact_interval(now, n)
    low_before, high_before = _exact_interval(before, m)
    rises, falls = most - now, now - least
    interval = max(0.0, now - math.hypot(now - low, falls)), min(1.0, now + math.hypot(high - now, rises))
    gain = math.hypot(high - now, before - low_before, _beyond(rises, min(threshold.reach, 1 - before)))
    loss = math.hypot(now - low, high_before - before, _beyond(falls, min(threshold.reach, before)))
    loss_interval = max(-1.0, before - now - gain), min(1.0, before - now + loss)
    return AccuracyEstimate(now, interval, before, before - now, loss_interval, n, m)


def _beyond(shift: float, reach: float) -> float:
    """What the error of the cut adds to the loss, where it moves the estimate by ``shift`` and the reference's accuracy by ``reach``.

    With ``r = shift / reach`` times as many rows near the cut as in the reference, the variance of the loss is that of the reference's
    accuracy plus ``r (r - 1)`` times that of the cut.
    """
    return math.sqrt(max(0.0, shift * (shift - reach)))


def _exact_interval(share: float, n: int) -> tuple[float, float]:
    """The 95% interval of a share among ``n`` rows (Clopper and Pearson 1934)."""
    from scipy.special import betaincinv

    right, wrong = share * n, (1 - share) * n
    low = float(betaincinv(right, wrong + 1, _TAIL)) if right > 0 else 0.0
    return low, float(betaincinv(right + 1, wrong, 1 - _TAIL)) if wrong > 0 else 1.0
