"""Counting values on a scale that is fixed."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from harness.monitoring.errors import ProfileMismatchError
from harness.monitoring.profiles.features import CategoricalCounts, Clusters, Feature, NumericCounts, VectorCounts
from harness.monitoring.profiles.levels import BUCKETS, bucket_of, buckets_of_ids, is_known, name_of_id
from harness.monitoring.profiles.projection import exact_sums, project
from harness.monitoring.profiles.values import Ids, Levels, Numbers, Values, Vectors

_SORTED_AT_ONCE = 1 << 15


class FeatureCounter(Protocol):
    """Counts the values of one feature."""

    def add(self, values: Values) -> None:
        """Counts values."""
        ...

    def result(self) -> Feature:
        """The counts of all."""
        ...


def count_numbers(edges: NDArray[np.float64], values: NDArray[np.float64]) -> NumericCounts:
    """Counts values between edges.

    Sorting pieces that fit into the cache and finding the edges among them is several times faster than finding each value among the
    edges, and as exact.

    Args:
        edges: Strictly increasing, float64 ``[B - 1]``.
        values: float64 ``[N]``.
    """
    marks = np.concatenate([[-np.finfo(np.float64).max], edges, [np.inf]])
    below = np.zeros(len(marks), np.int64)
    nan = 0
    for start in range(0, len(values), _SORTED_AT_ONCE):
        piece = np.sort(values[start : start + _SORTED_AT_ONCE])  # NaN goes to the end
        numbers = int(np.searchsorted(piece, np.nan))
        nan += len(piece) - numbers
        below += np.searchsorted(piece[:numbers], marks)
    return NumericCounts(edges, np.diff(below), nan, len(values) - nan - int(below[-1]), int(below[0]))


class NumericCounter:
    """Counts numbers."""

    def __init__(self, scale: NumericCounts) -> None:
        self._counts = scale

    def add(self, values: Values) -> None:
        """Counts values."""
        assert isinstance(values, Numbers)
        self._counts = self._counts.merge(count_numbers(self._counts.edges, values.values))

    def result(self) -> NumericCounts:
        """The counts of all."""
        return self._counts


class CategoricalCounter:
    """Counts values by level and by bucket."""

    def __init__(self, scale: CategoricalCounts) -> None:
        self._scale = scale
        self._places = {level: place for place, level in enumerate(scale.levels)}
        self._levels = np.zeros(len(scale.levels), np.int64)
        self._buckets = np.zeros(BUCKETS, np.int64)
        self._rest = self._unseen = self._missing = 0
        self._clusters = scale.clusters
        self._ids = np.zeros(0, np.int64)
        self._names: tuple[str, ...] = ()

    def add(self, values: Values) -> None:
        """Counts values."""
        if isinstance(values, Ids):
            self._add_ids(values)
        else:
            assert isinstance(values, Levels)
            self._missing += values.missing
            for level, count in values.counts.items():
                self._add_level(level, count)

    def _add_level(self, level: str, count: int) -> None:
        place = self._places.get(level)
        self._buckets[bucket_of(level)] += count
        if place is not None:
            self._levels[place] += count
        elif self._scale.known is None or is_known(self._scale.known, level):
            self._rest += count
        else:
            self._unseen += count

    def _add_ids(self, values: Ids) -> None:
        """Ids are counted by number, and their names looked at once at the end."""
        real = values.ids >= 0
        ids = values.ids if real.all() else values.ids[real]
        self._missing += len(values.ids) - len(ids)
        self._names = values.names
        found = np.bincount(ids, minlength=max(values.size, len(self._ids)))
        found[: len(self._ids)] += self._ids
        self._ids = found
        if self._clusters is not None and values.rows is not None:
            self._clusters = self._clusters.merge(_clusters(ids, values.rows[real], len(found), values.names))

    def result(self) -> CategoricalCounts:
        """The counts of all."""
        for id in np.flatnonzero(self._ids):
            self._add_level(name_of_id(int(id), self._names), int(self._ids[id]))
        self._ids = np.zeros(0, np.int64)
        return replace(
            self._scale,
            counts=self._levels,
            rest=self._rest,
            unseen=self._unseen,
            missing=self._missing,
            buckets=self._buckets,
            clusters=self._clusters,
        )


def _clusters(ids: NDArray[np.int64], rows: NDArray[np.int64], size: int, names: tuple[str, ...]) -> Clusters:
    """How the values of each row fall into buckets."""
    distinct, row = np.unique(rows, return_inverse=True)
    by_row = np.bincount(row * BUCKETS + buckets_of_ids(size, names)[ids], minlength=len(distinct) * BUCKETS)
    by_row = by_row.reshape(-1, BUCKETS)
    lengths = by_row.sum(axis=1)
    return Clusters(
        rows=len(distinct),
        lengths=int((lengths**2).sum()),
        squares=tuple((by_row**2).sum(axis=0).tolist()),
        products=tuple((by_row * lengths[:, None]).sum(axis=0).tolist()),
    )


class VectorCounter:
    """Counts vectors along directions."""

    def __init__(self, scale: VectorCounts) -> None:
        self._counts = scale

    def add(self, values: Values) -> None:
        """Counts vectors.

        Raises:
            ProfileMismatchError: They are of another width than the reference's.
        """
        assert isinstance(values, Vectors)
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


def counter_of(scale: Feature) -> FeatureCounter:
    """A counter on the scale of a feature, whose own counts it does not take over."""
    if isinstance(scale, NumericCounts):
        return NumericCounter(scale.emptied())
    if isinstance(scale, CategoricalCounts):
        return CategoricalCounter(scale.emptied())
    return VectorCounter(scale.emptied())
