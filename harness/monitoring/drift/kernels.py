"""How alike rows are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def gaussian_kernel(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """``exp(-d^2 / (2 median(d)^2))`` of the distances between all rows: the median heuristic (Gretton et al. 2012).

    Args:
        rows: ``[N, D]`` with two distinct rows at least.

    Returns:
        float64 ``[N, N]``.
    """
    squares = (rows**2).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares - 2 * rows @ rows.T, 0.0)
    apart = distances[np.triu_indices(len(rows), 1)]
    median = float(np.median(apart)) or float(apart.mean()) or 1.0
    return np.exp(-distances / (2 * median))
