"""Vector features, such as embeddings: fixed random directions, along which they are counted and compared, in whole numbers."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import ProfileMismatchError
from harness.monitoring import DriftOptions
from harness.monitoring.features import Difference, FeatureKind, Plot
from harness.monitoring.features.counts import NumericCounts, Projection, VectorCounts
from harness.monitoring.features.edges import NumericSurvey
from harness.monitoring.features.numeric import Numeric, compare_missing, count_numbers, ks_difference
from harness.monitoring.features.values import Vectors
from harness.monitoring.statistics import ks_distance

DIRECTIONS = 8
"""Directions that vectors are projected on."""

DIRECTION_BINS = 20
"""Bins of each direction of a vector; eight directions share a feature's room."""

_COORDINATE_BITS = 31
_HEADROOM_BITS = 4


def fit_projection(values: NDArray[np.floating]) -> Projection:
    """A projection for vectors of a width and about a size.

    Args:
        values: Some of the vectors, ``[N, D]``. Others may be 16 times as large; beyond that they are clipped.
    """
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max()) if finite.size else 0.0
    reach = math.frexp(largest)[1] if largest else 0
    return Projection(values.shape[1], _limit_bits(values.shape[1]) - _HEADROOM_BITS - reach, seed=0)


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
    """Random signs ``[D, 8]``, the same on every machine."""
    digest = hashlib.shake_256(f"profile projection 1, seed {seed}, width {width}".encode()).digest(width * DIRECTIONS // 8)
    bits = np.unpackbits(np.frombuffer(digest, np.uint8)).reshape(width, DIRECTIONS)
    return 1.0 - 2.0 * bits.astype(np.float64)


class VectorSurvey:
    """Reads vectors; the first of them decide how finely they are rounded."""

    def __init__(self) -> None:
        self._projection: Projection | None = None
        self._directions = [NumericSurvey() for _ in range(DIRECTIONS)]

    def add(self, values: Vectors) -> None:
        """Reads their coordinates.

        Raises:
            ProfileMismatchError: They are of another width than those before.
        """
        if not len(values.values):
            return
        if self._projection is None:
            self._projection = fit_projection(values.values)
        width = values.values.shape[1]
        if width != self._projection.width:
            raise ProfileMismatchError(f"vectors of {self._projection.width} numbers, and later of {width}")
        coordinates = np.ldexp(project(self._projection, values.values), -self._projection.exponent)
        for direction, column in zip(self._directions, coordinates.T, strict=True):
            direction.add_array(np.ascontiguousarray(column))

    def scale(self, bins: int) -> VectorCounts:
        """The directions, each with edges on its quantiles."""
        directions = tuple(direction.scale(min(bins, DIRECTION_BINS)) for direction in self._directions)
        nothing = (0,) * DIRECTIONS
        return VectorCounts(directions, 0, self._projection or Projection(), nothing, nothing)


class VectorCounter:
    """Counts vectors along directions."""

    def __init__(self, scale: VectorCounts) -> None:
        self._counts = scale

    def add(self, values: Vectors) -> None:
        """Counts vectors.

        Raises:
            ProfileMismatchError: They are of another width than the reference's.
        """
        projection = self._counts.projection
        if values.values.shape[1] != projection.width:
            raise ProfileMismatchError(
                f"vectors of {values.values.shape[1]} numbers, the reference's have {projection.width}; another model or column?"
            )
        coordinates = project(projection, values.values)
        sums, squares = exact_sums(coordinates)
        scaled = np.ldexp(coordinates, -projection.exponent)
        pairs = zip(self._counts.directions, scaled.T, strict=True)
        directions = tuple(count_numbers(direction.edges, np.ascontiguousarray(column)) for direction, column in pairs)
        self._counts = self._counts.merge(VectorCounts(directions, len(coordinates), projection, sums, squares))

    def result(self) -> VectorCounts:
        """The counts of all."""
        return self._counts


def compare_directions(
    feature: str, reference: VectorCounts, current: VectorCounts, options: DriftOptions
) -> Iterable[Difference]:
    """The difference of vectors along the random direction where it is most significant, corrected for their number."""
    pairs = zip(reference.directions, current.directions, strict=True)
    among = len(reference.directions)
    found = [ks_difference(feature, one, other, options.floors.ks, among) for one, other in pairs]
    best = min(range(among), key=lambda direction: (found[direction].p, -found[direction].effect.value))
    where = f"along random direction {best + 1} of {among}"
    return [replace(found[best], test="KS along random directions", where=where)]


def compare_missing_vectors(
    feature: str, reference: VectorCounts, current: VectorCounts, options: DriftOptions
) -> Iterable[Difference]:
    """The difference of the shares of vectors that are not finite; none where neither sample has any."""
    return compare_missing(feature, reference.directions[0], current.directions[0], options)


class Vector(FeatureKind[VectorCounts]):
    """Vectors, by their coordinates along a few fixed random directions."""

    counts = VectorCounts
    statistics = (compare_directions, compare_missing_vectors)

    def accepts(self, array: NDArray[Any]) -> bool:
        """Whether a column has two axes."""
        return array.ndim == 2

    def values(self, array: NDArray[Any]) -> Vectors:
        """A column as vectors."""
        return Vectors(array.astype(np.float64, copy=False))

    def survey(self) -> VectorSurvey:
        """Quantiles along the directions."""
        return VectorSurvey()

    def counter(self, scale: VectorCounts) -> VectorCounter:
        """A counter along directions."""
        return VectorCounter(scale.emptied())

    def log_coincidence(self, counts: VectorCounts) -> float:
        """Of the direction that says most."""
        return min(Numeric().log_coincidence(direction) for direction in counts.directions)

    def summary(self, counts: VectorCounts) -> str:
        """``64 numbers along 8 random directions``."""
        return f"{counts.projection.width} numbers along {len(counts.directions)} random directions"

    def plot(self, reference: VectorCounts, current: VectorCounts, aspect: str) -> Plot | None:
        """Along the direction where the two sides are furthest apart."""
        pairs = list(zip(reference.directions, current.directions, strict=True))
        return Numeric().plot(*max(pairs, key=_distance), aspect)


def _distance(pair: tuple[NumericCounts, NumericCounts]) -> float:
    reference, current = pair
    return ks_distance(reference.counts, current.counts) if reference.finite and current.finite else 0.0
