"""How sure a classifier is."""

from __future__ import annotations

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
