"""From which confidence on a model's answers count as right."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.errors import DataError

_REPLICATES = 400
_UNSURE = -float(np.finfo(np.float64).max)


@dataclass(frozen=True)
class Cut:
    """A confidence that parts rows that count as right from those that do not.

    Attributes:
        value: Rows above it count as right, those below it as wrong.
        tied: How much of a right answer a row exactly at it counts for, from 0 to 1.
        accuracy: What the cut makes of the rows it was fitted to: the share that is right.
    """

    value: float
    tied: float
    accuracy: float

    @classmethod
    def fit(cls, confidence: NDArray[np.float64], right: NDArray[np.float64]) -> Cut:
        """The cut that counts as many rows as right as there are.

        Args:
            confidence: float64 ``[N]``, without NaN.
            right: 0 or 1, ``[N]``.
        """
        wrong = len(right) - int(right.sum())
        value = float(np.partition(confidence, min(wrong, len(right) - 1))[min(wrong, len(right) - 1)])
        above, at = int((confidence > value).sum()), int((confidence == value).sum())
        return cls(value, (len(right) - wrong - above) / at, float(right.mean()))


@dataclass(frozen=True)
class ConfidenceThreshold:
    """Average thresholded confidence, fitted to a labelled reference (Garg et al. 2022, "Leveraging unlabeled data ...").

    Attributes:
        cut: As large a share of the reference is above it as is right.
        n: Rows of the reference.
        replicates: The cuts of references with the rows drawn anew (bootstrap).
    """

    cut: Cut
    n: int
    replicates: tuple[Cut, ...]

    @property
    def accuracy(self) -> float:
        """Of the reference."""
        return self.cut.accuracy

    def to_json(self) -> dict[str, Any]:
        """The threshold as JSON-ready values."""
        cuts = [[cut.value, cut.tied, cut.accuracy] for cut in self.replicates]
        return {"cut": asdict(self.cut), "n": self.n, "replicates": cuts}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ConfidenceThreshold:
        """The inverse of ``to_json``."""
        return cls(Cut(**data["cut"]), data["n"], tuple(Cut(*values) for values in data["replicates"]))


def fit_threshold(scores: ArrayLike, correct: ArrayLike) -> ConfidenceThreshold:
    """The threshold for a model, from rows that it was not trained on.

    Args:
        scores: How sure the model is of each row, such as ``negative_entropy`` of its probabilities, ``[N]``; NaN counts as not at all.
        correct: Whether it is right, 0 or 1, ``[N]``.

    Raises:
        DataError: There are no rows, not as many of the one as of the other, or ``correct`` is something else.
    """
    confidence, right = as_confidence(scores), np.asarray(correct, np.float64)
    if confidence.shape != right.shape or confidence.ndim != 1 or not len(right):
        shapes = f"{list(confidence.shape)} and {list(right.shape)}"
        raise DataError(f"expected a score for each answer, and one at least, got shapes {shapes}")
    if not np.isin(right, (0.0, 1.0)).all():
        raise DataError("expected 0 or 1 for each answer: whether it is right")
    generator = np.random.default_rng(0)
    drawn = (generator.integers(len(right), size=len(right)) for _ in range(_REPLICATES))
    replicates = tuple(Cut.fit(confidence[rows], right[rows]) for rows in drawn)
    return ConfidenceThreshold(Cut.fit(confidence, right), len(right), replicates)


def as_confidence(scores: ArrayLike) -> NDArray[np.float64]:
    """Scores as float64, with the least finite number for NaN."""
    found = np.asarray(scores, np.float64)
    return np.where(np.isnan(found), _UNSURE, found).clip(_UNSURE, -_UNSURE)
