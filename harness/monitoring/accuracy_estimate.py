"""Accuracy without labels: from which confidence on a model's answers count as right, and the share of rows above it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.errors import DataError

MOST = float(np.finfo(np.float64).max)


def negative_entropy(probabilities: ArrayLike) -> NDArray[np.float64]:
    """The entropy of each row in nats, times -1: 0 for a row that is certain, ``-log C`` for one that knows nothing.

    Args:
        probabilities: ``[N, C]``, each row of sum 1.

    Returns:
        float64 ``[N]``; NaN for a row with NaN.
    """
    p = np.asarray(probabilities, np.float64)
    return (p * np.log(np.where(p > 0, p, 1.0))).sum(axis=-1)


def as_confidence(scores: ArrayLike) -> NDArray[np.float64]:
    """Scores as finite float64 ``[N]``: NaN becomes the least number there is, since a model that says nothing is sure of nothing.

    Raises:
        DataError: They are no list of numbers.
    """
    try:
        found = np.asarray(scores, np.float64)
    except (TypeError, ValueError):
        raise DataError("expected scores that are numbers, one a row") from None
    if found.ndim != 1:
        raise DataError(f"expected one score a row, got scores of shape {list(found.shape)}")
    return np.where(np.isnan(found), -MOST, found).clip(-MOST, MOST)


DEVIATIONS = 1.96
"""Standard deviations either side of a mean that hold 95% of a normal distribution."""


@dataclass(frozen=True)
class Cut:
    """A confidence that parts rows that count as right from those that do not.

    Attributes:
        value: Rows above it count as right, those below it as wrong.
        tied: How much of a right answer a row exactly at it counts for, from 0 to 1.
    """

    value: float
    tied: float

    @classmethod
    def above(cls, ordered: NDArray[np.float64], wrong: float) -> Cut:
        """The cut that counts so many rows as wrong.

        Args:
            ordered: Their confidence, ascending, ``[N]``.
            wrong: How many, from 0 to N, and not necessarily a whole number.
        """
        value = float(ordered[min(math.floor(wrong), len(ordered) - 1)])
        below, up_to = _bounds(ordered, value)
        return cls(value, (up_to - wrong) / (up_to - below))

    def right_among(self, ordered: NDArray[np.float64]) -> float:
        """How many rows it counts as right.

        Args:
            ordered: Their confidence, ascending, ``[M]``.
        """
        below, up_to = _bounds(ordered, self.value)
        return len(ordered) - up_to + self.tied * (up_to - below)


@dataclass(frozen=True)
class ConfidenceThreshold:
    """Average thresholded confidence, fitted to a labelled reference (Garg et al. 2022, "Leveraging unlabeled data ...").

    It holds a few numbers and no rows, and is kept with the run that its reference belongs to, beside the reference's profile:
    ``db.log_profile(run, threshold, "confidence")``, and ``ConfidenceThreshold.from_json(db.get_profile(run, "confidence"))``.

    Attributes:
        accuracy: Of the reference.
        n: Rows of the reference.
        cut: Counts as many rows of the reference as right as there are.
        lower: Where chance may have put the cut at the lowest (95%): what lies between is a share ``reach`` of the reference.
        upper: Where it may have put it at the highest.
        reach: 0 where the cut separates right from wrong without a mistake.
    """

    accuracy: float
    n: int
    cut: Cut
    lower: Cut
    upper: Cut
    reach: float

    def to_json(self) -> dict[str, Any]:
        """The threshold as JSON-ready values."""
        cuts = {name: [cut.value, cut.tied] for name, cut in (("cut", self.cut), ("lower", self.lower), ("upper", self.upper))}
        return {"accuracy": self.accuracy, "n": self.n, "reach": self.reach, **cuts}

    @classmethod
    def from_json(cls, data: Any) -> ConfidenceThreshold:
        """The inverse of ``to_json``.

        Raises:
            DataError: It is something else.
        """
        try:
            cut, lower, upper = (Cut(*map(float, data[name])) for name in ("cut", "lower", "upper"))
            return cls(float(data["accuracy"]), int(data["n"]), cut, lower, upper, float(data["reach"]))
        except (KeyError, TypeError, ValueError):
            raise DataError("expected a stored confidence threshold, got something else; fit it and store it again") from None


def fit_threshold(scores: ArrayLike, correct: ArrayLike) -> ConfidenceThreshold:
    """The threshold for a model, from rows that it was not trained on.

    Args:
        scores: How sure the model is of each row, such as ``negative_entropy`` of its probabilities, ``[N]``; NaN counts as not at all.
        correct: Whether it is right, 0 or 1, ``[N]``; NaN for a row without a label, which is left out.

    Raises:
        DataError: There are no labelled rows, not as many of the one as of the other, or ``correct`` is something else.
    """
    confidence, right = as_confidence(scores), _as_outcomes(correct)
    if confidence.shape != right.shape:
        raise DataError(f"expected a score for each answer, got shapes {list(confidence.shape)} and {list(right.shape)}")
    is_labelled = ~np.isnan(right)
    confidence, right = confidence[is_labelled], right[is_labelled]
    if not len(right):
        raise DataError("expected at least one labelled row")
    n, wrong = len(right), int((right == 0).sum())
    ordered = np.sort(confidence)
    cut = Cut.above(ordered, wrong)
    counted = np.where(confidence == cut.value, cut.tied, confidence > cut.value)
    shift = _shift(float(((right - counted) ** 2).sum()))
    # below all rows of the reference, nothing tells how far
    lower = Cut.above(ordered, wrong - shift) if wrong >= shift else Cut(-MOST, 0.0)
    upper = Cut.above(ordered, min(wrong + shift, n))
    return ConfidenceThreshold(1 - wrong / n, n, cut, lower, upper, shift / n)


def _as_outcomes(correct: ArrayLike) -> NDArray[np.float64]:
    try:
        found = np.asarray(correct, np.float64)
    except (TypeError, ValueError):
        found = np.full(1, np.inf)
    if not (np.isin(found, (0, 1)) | np.isnan(found)).all():
        raise DataError("expected 0 or 1 for each answer: whether it is right")
    return found


def _shift(mistaken: float) -> float:
    """By how many rows a cut may be misplaced that takes so many for right that are wrong, or the reverse.

    As many of the one as of the other are expected, so that their difference has the variance of their sum. The score interval puts into that
    sum what the shift itself would add, which leaves room for mistakes where none were seen: ``shift^2 = z^2 (mistaken + shift)``.
    """
    square = DEVIATIONS**2
    return square / 2 + math.sqrt(square * mistaken + square**2 / 4)


def _bounds(ordered: NDArray[np.float64], value: float) -> tuple[int, int]:
    """How many of the ordered numbers are less than a value, and how many no greater."""
    return int(np.searchsorted(ordered, value, "left")), int(np.searchsorted(ordered, value, "right"))


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
