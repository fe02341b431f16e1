"""Where a reference's bins begin and end."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_TINY = float(np.finfo(np.float64).tiny)


def choose_edges(values: NDArray[np.float64], weights: NDArray[np.int64], bins: int) -> NDArray[np.float64]:
    """Inner edges on the quantiles of a reference, with bins of their own for its most frequent values.

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
    """The atoms that need an end of their own: behind the others the next atom begins."""
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
