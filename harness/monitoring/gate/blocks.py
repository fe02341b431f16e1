"""Long arrays in pieces, so that what is computed of them stays small."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_LENGTH = 1 << 13  # fits the cache, and BLAS does not spread so short a product over threads that wait for each other


def blocks(values: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Views of an array, one after the other."""
    for start in range(0, len(values), _LENGTH):
        yield values[start : start + _LENGTH]
