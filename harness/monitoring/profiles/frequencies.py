"""How often the levels of a feature occur, in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from harness.monitoring.profiles.levels import name_of_id

HELD = 8192
"""Levels that are held at most, between two additions."""


class Frequencies:
    """Counts of levels; exact up to 8,192 of them, and beyond a bounded summary (Misra and Gries 1982; Agarwal et al. 2012).

    A level that makes up more than 1/4096 of the values is always held.

    Attributes:
        exact: Whether every level was held all the time.
    """

    def __init__(self) -> None:
        self.exact = True
        self._counts: Counter[str] = Counter()

    def add(self, counts: Mapping[str, int]) -> None:
        """Adds values by level."""
        self._counts.update(counts)
        if len(self._counts) > HELD:
            self.exact = False
            kept = self._counts.most_common(HELD // 2 + 1)
            least = kept[-1][1]
            self._counts = Counter({level: count - least for level, count in kept if count > least})

    def counts(self) -> dict[str, int]:
        """The levels held."""
        return dict(self._counts)


class IdFrequencies:
    """Counts of numbered levels, one number an id."""

    exact = True

    def __init__(self, size: int, names: tuple[str, ...]) -> None:
        self._names = names
        self._counts = np.zeros(size, np.int64)

    def add(self, ids: NDArray[np.int64]) -> None:
        """Adds ids, int64 ``[N]``, none negative."""
        found = np.bincount(ids, minlength=len(self._counts))
        if len(found) > len(self._counts):
            found[: len(self._counts)] += self._counts
            self._counts = found
        else:
            self._counts += found

    def counts(self) -> dict[str, int]:
        """The levels that occurred."""
        return {name_of_id(int(id), self._names): int(self._counts[id]) for id in np.flatnonzero(self._counts)}
