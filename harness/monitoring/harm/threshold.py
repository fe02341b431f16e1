"""From which confidence on a model's answers count as right."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.errors import DataError
from harness.monitoring.harm.confidence import MOST, as_confidence

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
            raise DataError("expected a stored confidence threshold, got something else; fit and store it anew") from None


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
        raise DataError("expected one labelled row at least")
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
