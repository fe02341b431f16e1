"""Categorical features: their levels, counts, summary and plot; they are compared in ``category_drift``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.monitoring.features import FeatureKind, Plot, log_coincidence_of, shares_by_label
from harness.monitoring.features.category_drift import compare_absent, compare_categories, compare_clusters
from harness.monitoring.features.counts import CategoricalCounts, Clusters, first_names
from harness.monitoring.features.new_levels import compare_unseen
from harness.monitoring.features.values import (
    BUCKETS,
    Frequencies,
    IdFrequencies,
    Ids,
    Levels,
    add_ids,
    bucket_of,
    buckets_of,
    is_known,
    is_missing,
    known_levels,
    level_name,
    name_of_id,
)

LEVELS = 100
"""Levels of a feature that are counted one by one."""

LEVELS_IN_CLUSTERS = 64
"""The same for a feature with several values a row, whose clusters take room."""

_SHOWN = 3
_PLOTTED = 10


class CategoricalSurvey:
    """Reads levels."""

    def __init__(self) -> None:
        self._found: Frequencies | IdFrequencies = Frequencies()
        self._clustered = False

    def add(self, values: Ids | Levels) -> None:
        """Reads those that are not missing."""
        if isinstance(values, Ids):
            if not isinstance(self._found, IdFrequencies):
                self._found = IdFrequencies(values.size, values.names)
            self._clustered = self._clustered or values.rows is not None
            self._found.add(values.ids[values.ids >= 0])
        else:
            assert isinstance(self._found, Frequencies)
            self._found.add(values.counts)

    def scale(self, _bins: int) -> CategoricalCounts:
        """The most frequent levels, and what is known of the others."""
        counts = self._found.counts()
        ordered = sorted(counts, key=lambda level: (-counts[level], level))
        limit = LEVELS_IN_CLUSTERS if self._clustered else LEVELS
        nothing = (0,) * BUCKETS
        return CategoricalCounts(
            levels=tuple(ordered[:limit]),
            counts=np.zeros(min(limit, len(ordered)), np.int64),
            buckets=np.zeros(BUCKETS, np.int64),
            known=known_levels(ordered[limit:]) if self._found.exact else None,
            once=sum(count == 1 for count in counts.values()) if self._found.exact else None,
            clusters=Clusters(0, 0, nothing, nothing) if self._clustered else None,
        )


class CategoricalCounter:
    """Counts values by level and by bucket."""

    def __init__(self, scale: CategoricalCounts) -> None:
        self._scale = scale
        self._places = {level: place for place, level in enumerate(scale.levels)}
        self._levels = np.zeros(len(scale.levels), np.int64)
        self._buckets = np.zeros(BUCKETS, np.int64)
        self._rest = self._unseen = self._missing = 0
        self._new: tuple[str, ...] = ()
        self._clusters = scale.clusters
        self._ids = np.zeros(0, np.int64)
        self._names: tuple[str, ...] = ()

    def add(self, values: Ids | Levels) -> None:
        """Counts values."""
        if isinstance(values, Ids):
            self._add_ids(values)
        else:
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
            self._new = first_names({*self._new, level})

    def _add_ids(self, values: Ids) -> None:
        """Ids are counted by number, and named once at the end."""
        real = values.ids >= 0
        ids = values.ids if real.all() else values.ids[real]
        self._missing += len(values.ids) - len(ids)
        self._names = values.names
        self._ids = add_ids(self._ids, ids, values.size)
        if self._clusters is not None and values.rows is not None:
            self._clusters = self._clusters.merge(clusters_of(ids, values.rows[real], len(self._ids), values.names))

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
            new=self._new,
        )


def clusters_of(ids: NDArray[np.int64], rows: NDArray[np.int64], size: int, names: tuple[str, ...]) -> Clusters:
    """How the values of each row fall into buckets."""
    distinct, row = np.unique(rows, return_inverse=True)
    by_row = np.bincount(row * BUCKETS + buckets_of(ids, size, names), minlength=len(distinct) * BUCKETS)
    by_row = by_row.reshape(-1, BUCKETS)
    lengths = by_row.sum(axis=1)
    return Clusters(
        rows=len(distinct),
        lengths=int((lengths**2).sum()),
        squares=tuple((by_row**2).sum(axis=0).tolist()),
        products=tuple((by_row * lengths[:, None]).sum(axis=0).tolist()),
    )


def named_levels(counts: Mapping[Any, int], missing: int = 0) -> tuple[dict[str, int], int]:
    """Values by the name of their level, and how many are missing.

    Args:
        counts: Distinct values, and how often each occurs.
        missing: Missing values that are not among them.
    """
    levels: Counter[str] = Counter()
    for value, count in counts.items():
        if is_missing(value):
            missing += count
        else:
            levels[level_name(value)] += count
    return dict(levels), missing


def _distinct(array: NDArray[Any]) -> Counter[Any]:
    if array.dtype.kind == "O":
        values = array.tolist()
        try:
            return Counter(values)
        except TypeError:  # lists, say
            return Counter(map(str, values))
    distinct, counts = np.unique(array, return_counts=True)
    return Counter(dict(zip(distinct.tolist(), counts.tolist(), strict=True)))


class Categorical(FeatureKind[CategoricalCounts]):
    """Levels, of which the most frequent are counted one by one and all by a hash of their names."""

    counts = CategoricalCounts
    statistics = (compare_clusters, compare_categories, compare_absent, compare_unseen)

    def accepts(self, array: NDArray[Any]) -> bool:
        """Whether a column has one value a row: what no other kind takes is levels."""
        return array.ndim == 1

    def values(self, array: NDArray[Any]) -> Levels:
        """A column as levels."""
        return Levels(*named_levels(_distinct(array)))

    def survey(self) -> CategoricalSurvey:
        """The frequencies of a reference."""
        return CategoricalSurvey()

    def counter(self, scale: CategoricalCounts) -> CategoricalCounter:
        """A counter of levels and buckets."""
        return CategoricalCounter(scale.emptied())

    def log_coincidence(self, counts: CategoricalCounts) -> float:
        """By buckets."""
        levels = counts.buckets if counts.buckets.size else np.array([*counts.counts, counts.rest, counts.unseen])
        cells = np.array([*levels, counts.missing], np.float64)
        if counts.clusters is not None:  # values of one row may all be alike, so that each row counts for one
            cells = cells * counts.clusters.rows / max(cells.sum(), 1.0)
        return log_coincidence_of(cells)

    def summary(self, counts: CategoricalCounts) -> str:
        """``A 40.1%, B 32.0%, C 20.4%, 7.5% others``."""
        if not counts.present:
            return "no value"
        order = np.argsort(-counts.counts, kind="stable")[:_SHOWN]
        named = [f"{counts.levels[at]} {counts.counts[at] / counts.present:.1%}" for at in order]
        left = counts.present - int(counts.counts[order].sum())
        others = [f"{left / counts.present:.1%} others"] if left else []
        unseen = [f"{counts.unseen / counts.present:.1%} never seen before"] if counts.unseen else []
        return ", ".join(named + others + unseen)

    def cells(self, counts: CategoricalCounts) -> NDArray[np.int64] | None:
        """Levels, then others, unseen and missing; ``None`` where rows have several values."""
        if counts.clusters is not None:
            return None
        return np.array([*counts.counts, counts.rest, counts.unseen, counts.missing], np.int64)

    def cells_of(self, counts: CategoricalCounts, array: NDArray[Any]) -> NDArray[np.intp]:
        """The level of each value, or the cell of those that are none."""
        known: dict[Any, int] = {}
        return np.array([self._cell(counts, value, known) for value in array.tolist()], np.intp)

    def _cell(self, counts: CategoricalCounts, value: Any, known: dict[Any, int]) -> int:
        key = value if value.__hash__ else str(value)
        if key not in known:
            single = np.empty(1, object)
            single[0] = value
            counter = self.counter(counts)
            counter.add(self.values(single))
            cells = self.cells(counter.result())
            assert cells is not None
            known[key] = int(cells.argmax())
        return known[key]

    def plot(self, reference: CategoricalCounts, current: CategoricalCounts, aspect: str) -> Plot | None:
        """The levels that changed most, by their part of Cramér's V; the others together."""
        if not (reference.n and current.n):
            return None
        p, q = reference.counts / reference.n, current.counts / current.n
        total = np.where(p + q > 0, p + q, 1.0)
        order = np.argsort(-((p - q) ** 2) / total, kind="stable")[:_PLOTTED]
        sides = []
        for side in (reference, current):
            named = side.counts[order]
            others = int(side.counts.sum() - named.sum()) + side.rest
            sides.append(np.array([*named, others, side.unseen, side.missing], np.int64))
        labels = [reference.levels[place] for place in order]
        return shares_by_label([*labels, "(other levels)", "(never seen before)", "(missing)"], *sides)
