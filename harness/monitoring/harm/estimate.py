"""Accuracy without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.monitoring.harm.threshold import ConfidenceThreshold, Cut, as_confidence

_ENDS = (0.025, 0.975)


@dataclass(frozen=True)
class AccuracyEstimate:
    """How often a model is right in a window without labels, as far as its confidence tells.

    The intervals are those of chance alone: of the rows that the reference and the window happen to hold. Where drift makes a model sure of
    wrong answers, the estimate is too high by more than they say.

    Attributes:
        accuracy: As estimated.
        interval: Its 95% interval.
        reference_accuracy: What it was on the labelled reference.
        loss: By how much it fell.
        loss_interval: Its 95% interval.
        n: Rows of the window.
        reference_n: Rows of the reference.
    """

    accuracy: float
    interval: tuple[float, float]
    reference_accuracy: float
    loss: float
    loss_interval: tuple[float, float]
    n: int
    reference_n: int

    def to_json(self) -> dict[str, Any]:
        """The estimate as JSON-ready values."""
        return {**asdict(self), "interval": list(self.interval), "loss_interval": list(self.loss_interval)}


def estimate_accuracy(threshold: ConfidenceThreshold, scores: ArrayLike) -> AccuracyEstimate:
    """The share of rows that are more confident than the threshold, with a bootstrap of both reference and window.

    Args:
        threshold: Fitted to the reference.
        scores: How sure the same model is of each row of the window, ``[M]``, by the same measure.
    """
    ordered = np.sort(as_confidence(scores))
    n, reference = len(ordered), threshold.accuracy
    if not n:
        return AccuracyEstimate(reference, (0.0, 1.0), reference, 0.0, (reference - 1, reference), 0, threshold.n)
    accuracy = float(_counted_as_right(ordered, [threshold.cut])[0])
    # of rows drawn anew from the window, as many count as right as by a binomial draw
    drawn = np.random.default_rng(0).binomial(n, _counted_as_right(ordered, threshold.replicates)) / n
    losses = np.array([cut.accuracy for cut in threshold.replicates]) - drawn
    low, high = np.quantile(drawn, _ENDS).tolist()
    least, most = np.quantile(losses, _ENDS).tolist()
    return AccuracyEstimate(accuracy, (low, high), reference, reference - accuracy, (least, most), n, threshold.n)


def _counted_as_right(ordered: NDArray[np.float64], cuts: Sequence[Cut]) -> NDArray[np.float64]:
    """The share of rows that each cut counts as right.

    Args:
        ordered: Their confidence, ascending, ``[M]``.
        cuts: ``T``.
    """
    values, tied = np.array([(cut.value, cut.tied) for cut in cuts]).T
    below, up_to = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    return (len(ordered) - up_to + tied * (up_to - below)) / len(ordered)
