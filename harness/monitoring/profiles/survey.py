"""The first look at a reference, after which its scales are fixed."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from harness.monitoring.errors import ProfileMismatchError
from harness.monitoring.profiles.edges import choose_edges
from harness.monitoring.profiles.features import CategoricalCounts, Clusters, Feature, NumericCounts, Projection, VectorCounts
from harness.monitoring.profiles.frequencies import Frequencies, IdFrequencies
from harness.monitoring.profiles.levels import BUCKETS, known_levels
from harness.monitoring.profiles.projection import DIRECTIONS, fit_projection, project
from harness.monitoring.profiles.quantiles import QuantileSketch
from harness.monitoring.profiles.values import Ids, Levels, Numbers, Values, Vectors

LEVELS = 100
"""Levels of a feature that are counted one by one."""

LEVELS_IN_CLUSTERS = 64
"""The same for a feature with several values a row, whose clusters take room."""

DIRECTION_BINS = 20
"""Bins of each direction of a vector; eight directions share a feature's room."""


class Survey(Protocol):
    """Looks at all values of one feature, in bounded memory."""

    def add(self, values: Values) -> None:
        """Looks at values."""
        ...

    def scale(self, bins: int) -> Feature:
        """The scale for them, with nothing counted."""
        ...


class NumericSurvey:
    """Looks at numbers."""

    def __init__(self) -> None:
        self._sketch = QuantileSketch()

    def add(self, values: Values) -> None:
        """Looks at the finite ones."""
        assert isinstance(values, Numbers)
        self.add_array(values.values)

    def add_array(self, values: NDArray[np.float64]) -> None:
        """Looks at the finite ones of an array."""
        finite = np.isfinite(values)
        self._sketch.add(values if finite.all() else values[finite])

    def scale(self, bins: int) -> NumericCounts:
        """Edges on their quantiles."""
        edges = choose_edges(*self._sketch.weighted(), bins)
        return NumericCounts(edges, np.zeros(len(edges) + 1, np.int64))


class CategoricalSurvey:
    """Looks at levels."""

    def __init__(self) -> None:
        self._found: Frequencies | IdFrequencies = Frequencies()
        self._clustered = False

    def add(self, values: Values) -> None:
        """Looks at those that are not missing."""
        if isinstance(values, Ids):
            if not isinstance(self._found, IdFrequencies):
                self._found = IdFrequencies(values.size, values.names)
            self._clustered = self._clustered or values.rows is not None
            self._found.add(values.ids[values.ids >= 0])
        else:
            assert isinstance(values, Levels)
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


class VectorSurvey:
    """Looks at vectors; the first of them decide how finely they are rounded."""

    def __init__(self) -> None:
        self._projection: Projection | None = None
        self._directions = [NumericSurvey() for _ in range(DIRECTIONS)]

    def add(self, values: Values) -> None:
        """Looks at their coordinates.

        Raises:
            ProfileMismatchError: They are of another width than those before.
        """
        assert isinstance(values, Vectors)
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


def survey_of(values: Values) -> Survey:
    """What looks at values of this kind."""
    if isinstance(values, Numbers):
        return NumericSurvey()
    return VectorSurvey() if isinstance(values, Vectors) else CategoricalSurvey()
