"""How familiar a row is: a confidence that does not take the model's own word for it.

Far from its training data a model is often sure and wrong, and a threshold on its confidence is fooled with it. A row is familiar where it
lies near training rows of the class that the model says, and farther from those of any other class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.errors import DataError
from harness.monitoring.harm.logistic import fit_logistic

_NEIGHBOURS = 3
_VARIANCE_KEPT = 0.9
_PIECE = 1024
_LEAST = 1e-9


@dataclass(frozen=True)
class Familiarity:
    """Measures rows against training rows, by what a trust score is made of (Jiang et al. 2018, "To trust or not to trust a classifier").

    Attributes:
        centre: Mean of the training vectors, ``[D]``.
        axes: Their first principal components, with 90% of the variance, ``[D, P]``; noise spreads over the others.
        known: Coordinates of the training rows, ``[K, P]``.
        labels: Their labels, ``[K]``.
        weights: Of the two measures, and a constant, ``[3]``: what best tells right answers on the reference from wrong ones.
    """

    centre: NDArray[np.float64]
    axes: NDArray[np.float64]
    known: NDArray[np.float64]
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]

    def scores(self, vectors: ArrayLike, predictions: ArrayLike) -> NDArray[np.float64]:
        """How familiar rows are, ``[M]``, for ``fit_threshold`` and ``estimate_accuracy``; NaN for a row that is not finite.

        Args:
            vectors: Inputs or embeddings, as those of the training rows, ``[M, D]``.
            predictions: The class that the model says, ``[M]``.
        """
        rows, said = np.asarray(vectors, np.float64), np.asarray(predictions, np.int64)
        finite = np.isfinite(rows).all(axis=1)
        found = np.full(len(rows), np.nan)
        coordinates = (rows[finite] - self.centre) @ self.axes
        found[finite] = _measures(coordinates, said[finite], self.known, self.labels) @ self.weights
        return found


def fit_familiarity(
    training: ArrayLike, labels: ArrayLike, vectors: ArrayLike, predictions: ArrayLike, correct: ArrayLike
) -> Familiarity:
    """How familiar rows are to a model.

    Args:
        training: Inputs or embeddings of rows that the model was trained on, or of some of them, ``[K, D]``; to be kept as they are.
        labels: Their classes, ``[K]``.
        vectors: The same of a labelled reference that it was not trained on, ``[N, D]``.
        predictions: The classes that the model says of it, ``[N]``.
        correct: Whether it is right, 0 or 1, ``[N]``.

    Raises:
        DataError: There are too few rows, not as many of one as of another, or some are not finite.
    """
    known, truth = np.asarray(training, np.float64), np.asarray(labels, np.int64)
    rows, said = np.asarray(vectors, np.float64), np.asarray(predictions, np.int64)
    right = np.asarray(correct).astype(bool)
    if known.ndim != 2 or rows.ndim != 2 or known.shape[1] != rows.shape[1] or len(known) < 2 or not len(rows):
        raise DataError(f"expected two tables of the same width, got shapes {list(known.shape)} and {list(rows.shape)}")
    if len(truth) != len(known) or not len(said) == len(right) == len(rows):
        raise DataError(
            "expected a label for each training row, and a prediction and whether it is right for each row of the reference"
        )
    if not (np.isfinite(known).all() and np.isfinite(rows).all()):
        raise DataError("expected finite vectors")
    centre, axes = _principal_axes(known)
    coordinates = (known - centre) @ axes
    measures = _measures((rows - centre) @ axes, said, coordinates, truth)
    return Familiarity(centre, axes, coordinates, truth, fit_logistic(measures, right))


def _principal_axes(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    centre = rows.mean(axis=0)
    _, values, axes = np.linalg.svd(rows - centre, full_matrices=False)
    shares = np.cumsum(values**2) / max(float((values**2).sum()), _LEAST)
    return centre, axes[: int(np.searchsorted(shares, _VARIANCE_KEPT)) + 1].T


def _measures(
    rows: NDArray[np.float64], predictions: NDArray[np.int64], known: NDArray[np.float64], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Of each row the logarithms of the other classes' distance over the predicted one's, and of that one's inverse; and 1, ``[M, 3]``.

    Args:
        rows: Coordinates, ``[M, P]``.
        predictions: ``[M]``.
        known: Coordinates of training rows, ``[K, P]``.
        labels: Their classes, ``[K]``.
    """
    pieces = []
    for start in range(0, max(len(rows), 1), _PIECE):
        distances = _distances(rows[start : start + _PIECE], known)
        pieces.append(_of_classes(distances, predictions[start : start + _PIECE], labels))
    return np.concatenate(pieces)


def _distances(rows: NDArray[np.float64], known: NDArray[np.float64]) -> NDArray[np.float64]:
    squares = (rows**2).sum(axis=1)[:, None] + (known**2).sum(axis=1) - 2 * rows @ known.T
    return np.sqrt(np.maximum(squares, 0.0))


def _of_classes(distances: NDArray[np.float64], predictions: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Distances of rows to the training rows as measures, ``[M, 3]``."""
    farthest = float(distances.max(initial=1.0))
    to_own = np.full(len(distances), farthest)
    to_others = np.full(len(distances), farthest)
    for label in np.unique(labels):
        nearest = np.sort(distances[:, labels == label], axis=1)[:, :_NEIGHBOURS]
        distance = nearest.mean(axis=1)
        said = predictions == label
        to_own[said] = distance[said]
        to_others[~said] = np.minimum(to_others, distance)[~said]
    to_own, to_others = np.maximum(to_own, _LEAST), np.maximum(to_others, _LEAST)
    return np.stack([np.log(to_others / to_own), -np.log(to_own), np.ones(len(distances))], axis=1)
