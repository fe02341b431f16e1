"""Rows of two samples at hand, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.errors import DataError


@dataclass(frozen=True)
class Rows:
    """Two samples of rows.

    Attributes:
        reference: float64 ``[N, D]``, all finite.
        current: float64 ``[M, D]``, all finite.
        reference_n: Rows that the reference has, N or more.
        current_n: Rows that the window has, M or more.
        reference_missing: How many of the reference's are not finite, and so left out.
        current_missing: How many of the window's.
        places: Which rows of the window ``current`` holds, ``[M]``.
    """

    reference: NDArray[np.float64]
    current: NDArray[np.float64]
    reference_n: int
    current_n: int
    reference_missing: int
    current_missing: int
    places: NDArray[np.intp]

    @classmethod
    def of(cls, reference: ArrayLike, current: ArrayLike, most: int | None = None) -> Rows:
        """The finite rows, of each sample at most so many, drawn the same way in every run.

        Args:
            reference: Numbers ``[N, D]``.
            current: Numbers ``[M, D]``.
            most: The most rows to keep of either; ``None`` for all.

        Raises:
            DataError: They are no tables of the same width.
        """
        one, other = np.asarray(reference, np.float64), np.asarray(current, np.float64)
        if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1]:
            raise DataError(f"expected two tables of the same width, got shapes {list(one.shape)} and {list(other.shape)}")
        kept = [np.flatnonzero(np.isfinite(rows).all(axis=1)) for rows in (one, other)]
        drawn = [_some(places, most) for places in kept]
        missing = len(one) - len(kept[0]), len(other) - len(kept[1])
        return cls(one[drawn[0]], other[drawn[1]], len(one), len(other), *missing, drawn[1])

    @property
    def pooled(self) -> NDArray[np.float64]:
        """Both, the reference's rows first, each column in units of its standard deviation around its mean, ``[N + M, D]``."""
        both = np.concatenate([self.reference, self.current])
        spread = both.std(axis=0)
        return (both - both.mean(axis=0)) / np.where(spread > 0, spread, 1.0)


def _some(places: NDArray[np.intp], most: int | None) -> NDArray[np.intp]:
    if most is None or len(places) <= most:
        return places
    return np.sort(np.random.default_rng(0).choice(places, most, replace=False))
