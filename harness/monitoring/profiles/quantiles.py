"""Quantiles of more values than can be held."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HELD = 4096
"""Values that a buffer holds."""


class QuantileSketch:
    """Weighted values that stand for all that were added, in one pass and memory that grows with the logarithm of their number.

    Buffers of sorted values are merged by pairs, and every second value is kept, with twice the weight (Munro and Paterson 1980; Manku,
    Rajagopalan and Lindsay 1998). Which of the two is kept alternates, so that the errors of a level cancel by pairs. The rank of no value
    is off by more than ``log2(N / 4096) / 8192`` of N: 0.05% at a million values, 0.2% at a hundred million. Up to 8,191 values it is
    exact. The result depends on the order of the values, and not on how they are parted into calls.
    """

    def __init__(self) -> None:
        self.n = 0
        self._waiting = np.empty(0)
        self._levels: list[NDArray[np.float64] | None] = []
        self._odd: list[bool] = []

    def add(self, values: NDArray[np.float64]) -> None:
        """Adds values, float64 ``[N]``, all finite."""
        self.n += len(values)
        waiting = np.concatenate([self._waiting, values])
        whole = len(waiting) // HELD * HELD
        for buffer in np.sort(waiting[:whole].reshape(-1, HELD), axis=1):
            self._carry(buffer)
        self._waiting = waiting[whole:].copy()

    def _carry(self, buffer: NDArray[np.float64]) -> None:
        for level, held in enumerate(self._levels):
            if held is None:
                self._levels[level] = buffer
                return
            buffer = np.sort(np.concatenate([held, buffer]))[int(self._odd[level]) :: 2]
            self._levels[level] = None
            self._odd[level] = not self._odd[level]
        self._levels.append(buffer)
        self._odd.append(False)

    def weighted(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Distinct values, ascending, and how many each stands for."""
        held = [(buffer, 1 << level) for level, buffer in enumerate(self._levels) if buffer is not None]
        held.append((self._waiting, 1))
        values = np.concatenate([buffer for buffer, _ in held])
        weights = np.concatenate([np.full(len(buffer), weight) for buffer, weight in held])
        distinct, where = np.unique(values, return_inverse=True)
        return distinct, np.bincount(where, weights, minlength=len(distinct)).astype(np.int64)
