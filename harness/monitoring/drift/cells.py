"""The cells in which two samples of categories are compared: frequent levels by themselves, the others pooled.

No rule here may look at the difference of the samples, only at what they hold together, or the test finds drift in its own choice. That
is harder than it sounds: a profile's levels are those its reference has many of, so that the reference's counts are high by that very
choice, and a level it never had is not among them at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.monitoring.profiles.features import CategoricalCounts
from harness.monitoring.profiles.levels import bucket_of

Counts = NDArray[np.int64]

MIN_EXPECTED = 5.0
"""Values that a cell expects of either sample at least."""

_MISJUDGED = 1e-4


@dataclass(frozen=True)
class Cells:
    """A table of two samples.

    Attributes:
        labels: What is in each cell, in words, ``K``; empty where that is too much to say.
        reference: int64 ``[K]``.
        current: int64 ``[K]``.
    """

    labels: tuple[str, ...]
    reference: Counts
    current: Counts

    @property
    def pooled(self) -> Counts:
        """Of both samples."""
        return self.reference + self.current

    def grouped(self, groups: list[list[int]]) -> Cells:
        """Cells put together; a group of several loses its names."""
        places = np.array([place for group in groups for place in group], np.intp)
        firsts = np.cumsum([0, *(len(group) for group in groups[:-1])])
        labels = tuple(self.labels[group[0]] if len(group) == 1 else "" for group in groups)
        return Cells(labels, np.add.reduceat(self.reference[places], firsts), np.add.reduceat(self.current[places], firsts))

    @property
    def filled(self) -> Cells:
        """Without the cells that are empty in both samples."""
        places = np.flatnonzero(self.pooled)
        return Cells(tuple(self.labels[place] for place in places), self.reference[places], self.current[places])


def cells_of(reference: CategoricalCounts, current: CategoricalCounts) -> Cells:
    """The cells of a feature's levels, each expecting at least 5 values of either sample where there are enough for two such.

    Args:
        reference: Counts of the reference.
        current: Counts of the window, of the same levels.
    """
    cells = _levels_and_buckets(reference, current).filled
    m, n = int(cells.reference.sum()), int(cells.current.sum())
    if len(cells.labels) < 2 or not (m and n):
        return cells
    groups = _packed(cells.pooled, MIN_EXPECTED * (m + n) / min(m, n))
    if len(groups) == 1:
        first, *others = groups[0]
        groups = [[first], others]
    return cells.grouped(groups)


def _levels_and_buckets(reference: CategoricalCounts, current: CategoricalCounts) -> Cells:
    """The levels that are certain, and by bucket what remains.

    In the order of their names: a profile lists levels by their counts in the reference, so that of two with equally many values in both
    samples together, its order would tell which has more of them in the window.
    """
    m, n = present(reference), present(current)
    found = np.flatnonzero(_certain(reference, current, m, n)).tolist()
    certain = np.array(sorted(found, key=lambda place: reference.levels[place]), np.intp)
    rests = []
    for side, total in ((reference, m), (current, n)):
        buckets = side.buckets.copy() if side.buckets.size else np.array([total])
        places = [bucket_of(side.levels[level]) if side.buckets.size else 0 for level in certain]
        np.subtract.at(buckets, np.array(places, np.intp), side.counts[certain])
        rests.append(np.concatenate([side.counts[certain], buckets]))
    labels = tuple(repr(reference.levels[level]) for level in certain) + ("",) * (len(rests[0]) - len(certain))
    return Cells(labels, *rests)


def present(counts: CategoricalCounts) -> int:
    """How many values are not missing."""
    return counts.n - counts.missing


def _certain(reference: CategoricalCounts, current: CategoricalCounts, m: int, n: int) -> NDArray[np.bool_]:
    """Levels so frequent in both samples together that the reference would have listed them by whatever chance dealt out their values.

    A level is listed where the reference has more of it than of those it left out. That it has no more than these of a level of which both
    have so many together has a probability below ``exp(-T KL)`` (Chernoff), which is to be negligible.
    """
    pooled = (reference.counts + current.counts).astype(np.float64)
    left_out = float(reference.counts.min()) if reference.rest and reference.counts.size else 0.0
    share = m / max(m + n, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        unlucky = np.where(pooled > 0, left_out / pooled, 1.0)
        divergence = np.where(unlucky > 0, unlucky * np.log(unlucky / share), 0.0)
        divergence += np.where(unlucky < 1, (1 - unlucky) * np.log((1 - unlucky) / (1 - share)), 0.0)
        return (unlucky < share) & (pooled * divergence > -math.log(_MISJUDGED))


def _packed(pooled: Counts, enough: float) -> list[list[int]]:
    """Groups of cells that hold enough, the largest cells first; what is left over at the end joins the last group."""
    groups: list[list[int]] = [[]]
    held = 0
    for place in np.argsort(-pooled, kind="stable").tolist():
        if held >= enough:
            groups.append([])
            held = 0
        groups[-1].append(place)
        held += int(pooled[place])
    if held < enough and len(groups) > 1:
        groups[-2].extend(groups.pop())
    return groups
