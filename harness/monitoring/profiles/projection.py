"""Vectors along fixed random directions, in whole numbers."""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from harness.monitoring.profiles.features import Projection

DIRECTIONS = 8
"""Directions that vectors are projected on."""

_COORDINATE_BITS = 31
_HEADROOM_BITS = 4


def fit_projection(values: NDArray[np.floating], seed: int = 0) -> Projection:
    """A projection for vectors of a width and about a size.

    Args:
        values: Some of the vectors, ``[N, D]``. Others may be 16 times as large; beyond that they are clipped.
        seed: Of the directions.
    """
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max()) if finite.size else 0.0
    reach = math.frexp(largest)[1] if largest else 0
    return Projection(values.shape[1], _limit_bits(values.shape[1]) - _HEADROOM_BITS - reach, seed)


def project(projection: Projection, values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Coordinates of vectors in units of ``2 ** -exponent``: whole numbers, the same whatever vectors stand beside them.

    Each direction is a vector of random signs (Achlioptas 2003). The sums stay below 2 ** 31, so that float64 holds them exactly,
    whichever order a matrix product adds in.

    Args:
        projection: Which directions.
        values: Vectors, ``[N, D]``.

    Returns:
        float64 ``[N, 8]``; NaN for a vector that is not finite.
    """
    limit = 2.0 ** _limit_bits(projection.width)
    with np.errstate(invalid="ignore", over="ignore"):
        whole = np.rint(np.ldexp(values.astype(np.float64), projection.exponent)).clip(-limit, limit)
    broken = ~np.isfinite(values).all(axis=1)
    whole[broken] = 0
    coordinates = whole @ _signs(projection.width, projection.seed)
    coordinates[broken] = np.nan
    return coordinates


def exact_sums(coordinates: NDArray[np.float64]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sums of coordinates and of their squares by direction, as whole numbers without a limit; NaN left out.

    Args:
        coordinates: Whole numbers below 2 ** 31, float64 ``[N, 8]``.
    """
    whole = coordinates[np.isfinite(coordinates).all(axis=1)].astype(np.int64)
    squares = whole * whole  # their sum may not fit into 64 bits, the sums of their halves do
    high, low = (squares >> 32).sum(axis=0), (squares & 0xFFFFFFFF).sum(axis=0)
    pairs = zip(high.tolist(), low.tolist(), strict=True)
    return tuple(whole.sum(axis=0).tolist()), tuple((upper << 32) + lower for upper, lower in pairs)


def _limit_bits(width: int) -> int:
    """Bits of one number of a vector, so that a sum of all stays below 2 ** 31."""
    return _COORDINATE_BITS - max(width - 1, 1).bit_length()


@lru_cache(maxsize=8)
def _signs(width: int, seed: int) -> NDArray[np.float64]:
    """Random signs ``[D, 8]``, the same everywhere and for ever."""
    digest = hashlib.shake_256(f"profile projection 1, seed {seed}, width {width}".encode()).digest(width * DIRECTIONS // 8)
    bits = np.unpackbits(np.frombuffer(digest, np.uint8)).reshape(width, DIRECTIONS)
    return 1.0 - 2.0 * bits.astype(np.float64)
