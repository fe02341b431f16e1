"""The edges that numbers are counted between: on the quantiles of a reference, and around all of it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from harness.monitoring.features.counts import NumericCounts
from harness.monitoring.features.ranges import edges_around
from harness.monitoring.features.values import Numbers, QuantileSketch

_FEWEST_BINS = 20
"""From here on there is room for bins outside the range of the reference."""

_TINY = float(np.finfo(np.float64).tiny)


def choose_edges(values: NDArray[np.float64], weights: NDArray[np.int64], bins: int) -> NDArray[np.float64]:
    """Inner edges on the quantiles of a reference, with a bin for each of its most frequent values.

    A value that makes up more than one bin's share is an atom: a bin holds it and nothing else, so that its share can be compared as
    such. The other edges are quantiles of what remains. A reference of few distinct values gets a bin for each, and one for what lies
    between two of them.

    Args:
        values: Distinct and ascending, float64 ``[D]``.
        weights: How many each stands for, int64 ``[D]``.
        bins: The most bins to make, at least 2.

    Returns:
        Strictly increasing, float64 ``[B - 1]`` with ``B <= bins``; empty where there are no values.
    """
    if 2 * len(values) < bins:
        return _distinct(np.concatenate([values, _after(values)]))
    atoms = _atoms(weights, bins)
    own = _distinct(np.concatenate([values[atoms], _after(values[_without_atom_behind(atoms)])]))
    rest = weights.copy()
    rest[atoms] = 0
    return _distinct(np.concatenate([own, _quantiles(values[rest > 0], rest[rest > 0], bins - 1 - len(own))]))


def _atoms(weights: NDArray[np.int64], bins: int) -> NDArray[np.intp]:
    """Places of the values heavier than a bin's share, ascending; the heaviest of them where there is no room for all."""
    heavy = np.flatnonzero(weights * bins > weights.sum())
    if len(heavy) + len(_without_atom_behind(heavy)) < bins:
        return heavy
    return np.sort(heavy[np.argsort(-weights[heavy], kind="stable")][: (bins - 1) // 2])


def _without_atom_behind(atoms: NDArray[np.intp]) -> NDArray[np.intp]:
    """The atoms that need their own end: behind the others the next atom begins."""
    return atoms[np.append(np.diff(atoms) > 1, True)] if len(atoms) else atoms


def _quantiles(values: NDArray[np.float64], weights: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """So many quantiles, evenly spaced; the values themselves where they are no more."""
    if len(values) <= count:
        return values
    total = np.cumsum(weights)
    wanted = total[-1] * np.arange(1, count + 1) / (count + 1)
    return values[np.searchsorted(total, wanted, side="right").clip(max=len(values) - 1)]


def _after(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The next greater floats; after zero the smallest normal one, since subnormal numbers count as zero on some processors."""
    with np.errstate(over="ignore"):  # behind the greatest float comes infinity, which is no edge
        return np.where(values == 0, _TINY, np.nextafter(values, np.inf))


def _distinct(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.unique(edges[np.isfinite(edges)]) + 0.0  # no negative zero, whose bytes would differ


class NumericSurvey:
    """Reads numbers."""

    def __init__(self) -> None:
        self._sketch = QuantileSketch()
        self._unit = ""
        self._low, self._high = math.inf, -math.inf

    def add(self, values: Numbers) -> None:
        """Reads the finite ones."""
        self._unit = values.unit
        self.add_array(values.values)

    def add_array(self, values: NDArray[np.float64]) -> None:
        """Reads the finite ones of an array."""
        finite = np.isfinite(values)
        kept = values if finite.all() else values[finite]
        self._sketch.add(kept)
        if kept.size:
            self._low, self._high = min(self._low, float(kept.min())), max(self._high, float(kept.max()))

    def scale(self, bins: int) -> NumericCounts:
        """Edges on their quantiles, and where there is room around all of them."""
        values, weights = self._weighted()
        around = np.zeros(0)
        if bins >= _FEWEST_BINS and 2 * len(values) > _FEWEST_BINS:  # fewer values are levels to the eye
            around = edges_around(self._low, self._high, float(_after(np.array(self._high))), self._unit)
            if 2 * len(values) < bins <= 2 * len(values) + len(around):  # a bin for each value comes first
                around = around[:0]
        edges = _distinct(np.concatenate([choose_edges(values, weights, bins - len(around)), around]))
        return NumericCounts(edges, np.zeros(len(edges) + 1, np.int64), unit=self._unit)

    def _weighted(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The values that were kept, and the least and the greatest, which a sketch may have dropped."""
        values, weights = self._sketch.weighted()
        missed = np.setdiff1d([self._low, self._high], values) if values.size else np.zeros(0)
        places = np.searchsorted(values, missed)
        return np.insert(values, places, missed), np.insert(weights, places, 1)
