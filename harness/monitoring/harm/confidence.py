"""How sure a classifier is."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def negative_entropy(probabilities: ArrayLike) -> NDArray[np.float64]:
    """The entropy of each row in nats, times -1: 0 for a row that is certain, ``-log C`` for one that knows nothing.

    Args:
        probabilities: ``[N, C]``, each row of sum 1.

    Returns:
        float64 ``[N]``; NaN for a row with NaN.
    """
    p = np.asarray(probabilities, np.float64)
    return (p * np.log(np.where(p > 0, p, 1.0))).sum(axis=-1)
