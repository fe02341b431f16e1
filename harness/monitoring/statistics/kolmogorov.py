"""How often two samples of one distribution lie as far apart as these do, at the edges of a histogram.

The statistic is Kolmogorov's and Smirnov's D, taken over the inner edges only. Its tables for all points are for more than that: read
with them, counts lose power. Here the probability is that of the very edges, ties and all, so nothing is lost but what lies between two
edges.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

SMALLEST_P = 1e-12
"""Below it the sums of probabilities are rounding noise."""

_REACH = 9.0  # standard deviations beyond which a binomial's tail (1e-18) is left out
_EXACT_WORK = 3_000_000  # multiplications; some milliseconds
_BRIDGE_CELLS = 256
_FEW = 200
_PIECES = 2000


def ks_distance(reference: Counts, current: Counts) -> float:
    """The largest difference of the two cumulative shares at an edge.

    Args:
        reference: Counts by bin, ``[B]``, not all 0.
        current: Counts in the same bins, not all 0.
    """
    return _widest(reference, current) / (int(reference.sum()) * int(current.sum()))


def ks_p_value(reference: Counts, current: Counts, single: NDArray[np.bool_] | None = None) -> float:
    """Probability of a distance as large as the observed one where both samples are of one distribution.

    Given how many values of both samples are in each bin, every way to deal them out to the two is equally likely. The share of the ways
    with a smaller distance is counted exactly, by a walk over the edges in which each step is a convolution (Hodges 1958, "The
    significance probability of the Smirnov two-sample test", for paths with ties). Where samples are so large that this would take long,
    the walk is a Brownian bridge looked at on the same edges.

    Edges on the quantiles of a small reference lie at its very values, where the distance is largest. They are no fixed edges then, and
    the walk looks between them as well.

    Args:
        reference: Counts by bin, ``[B]``, not all 0.
        current: Counts in the same bins, not all 0.
        single: Which bins hold one value only, so that nothing is between, ``[B]``; ``None`` where the edges are fixed.
    """
    widest = _widest(reference, current)
    if not widest:
        return 1.0
    pooled = reference + current
    if single is not None and reference.sum() < _FEW:
        pooled = _looked_into(pooled, single)
    pooled = pooled[pooled > 0]
    if _work(pooled, int(current.sum()), widest) <= _EXACT_WORK:
        inside = _share_inside(pooled, int(current.sum()), widest)
    else:
        n, m = int(current.sum()), int(reference.sum())
        scale = math.sqrt(n / (n + m) * m)  # half a step less: the distance moves in steps, and the observed one is a whole step
        inside = _bridge_inside(np.cumsum(pooled)[:-1] / (n + m), widest / n / m * scale - 0.5 / scale)
    return min(1.0, max(SMALLEST_P, 1.0 - inside))


def ks_critical(alpha: float, edges: int) -> float:
    """The distance that is significant at ``alpha``, in units of ``sqrt(1/n + 1/m)``, for large samples.

    The smaller of two upper bounds: Smirnov's for all points, and Bonferroni's for a few edges.
    """
    everywhere = math.sqrt(math.log(2 / alpha) / 2)
    few = NormalDist().inv_cdf(1 - alpha / (2 * max(edges, 1))) / 2
    return min(everywhere, few)


def _widest(reference: Counts, current: Counts) -> int:
    """The largest ``|k N - T n|`` over the edges: the distance times ``n m``, as a whole number, so that ties are ties."""
    n, m = int(current.sum()), int(reference.sum())
    gaps = np.cumsum(current)[:-1] * m - np.cumsum(reference)[:-1] * n
    return int(np.abs(gaps).max(initial=0))


def _looked_into(pooled: Counts, single: NDArray[np.bool_]) -> Counts:
    """The bins of more than one value in pieces of one, or of a few where there are very many."""
    size = max(1, int(pooled.sum()) // _PIECES)
    pieces = np.where(single, 1, np.maximum(-(-pooled // size), 1))
    sizes = np.repeat(pooled // pieces, pieces)
    ends = np.cumsum(pieces) - 1
    sizes[ends] += pooled % pieces
    return sizes


def _work(pooled: Counts, n: int, widest: int) -> float:
    """About how many multiplications the exact count takes."""
    share = n / int(pooled.sum())
    steps = np.minimum(pooled + 1, 2 * _REACH * np.sqrt(pooled * share * (1 - share)) + 2 * _REACH)
    before = np.minimum(np.cumsum(np.append(1, steps[:-1])), 2 * widest / int(pooled.sum()) + 1)
    return float((steps * before)[:-1].sum())


def _share_inside(pooled: Counts, n: int, widest: int) -> float:
    """Share of the ways to deal out the values in which every edge has ``|k N - T n| < widest``."""
    total = int(pooled.sum())
    share = n / total
    walk, lowest, seen = np.ones(1), 0, 0
    steps: dict[int, tuple[int, Floats]] = {}
    for count in pooled[:-1].tolist():
        if count not in steps:
            steps[count] = _step(count, share)
        first, probabilities = steps[count]
        walk, lowest, seen = np.convolve(walk, probabilities), lowest + first, seen + count
        low, high = (seen * n - widest) // total + 1, -((-seen * n - widest) // total) - 1
        walk = walk[max(0, low - lowest) : max(0, high - lowest + 1)]
        lowest = max(lowest, low)
        if not walk.size:
            return 0.0
    first, probabilities = _step(int(pooled[-1]), share)
    left = n - lowest - np.arange(walk.size) - first  # in the last bin is what is left of the current sample
    possible = (left >= 0) & (left < probabilities.size)
    first, whole = _step(total, share)
    return float(walk[possible] @ probabilities[left[possible]] / whole[n - first])


def _step(count: int, share: float) -> tuple[int, Floats]:
    """How many of a bin's values are the current sample's, a binomial number: the least, and the probabilities from there.

    Each probability is made of the one before, so that counts of any size lose no digits, as logarithms of their factorials would.
    """
    reach = _REACH * math.sqrt(count * share * (1 - share)) + _REACH
    low, high = max(0, math.floor(count * share - reach)), min(count, math.ceil(count * share + reach))
    k = np.arange(low, high, dtype=np.float64)
    logs = np.append(0.0, np.cumsum(np.log((count - k) / (k + 1) * (share / (1 - share)))))
    weights = np.exp(logs - logs.max())
    return low, weights / weights.sum()


def _bridge_inside(times: Floats, bound: float) -> float:
    """Probability that a Brownian bridge lies within ``bound`` of 0 at all the times, each between 0 and 1, by the midpoint rule."""
    if bound <= 0:
        return 0.0
    width = 2 * bound / _BRIDGE_CELLS
    cells = -bound + width * (np.arange(_BRIDGE_CELLS) + 0.5)
    density: Floats = np.zeros(0)
    before = 0.0
    for time in times.tolist():
        spread = math.sqrt(time - before)
        if min(spread, math.sqrt(1 - time)) < 2 * width:
            continue  # it hardly moves from the last edge or to the end, and the cells are too wide to see it
        if not density.size:
            density = _normal(cells, spread)
        else:
            taps = min(_BRIDGE_CELLS - 1, math.ceil(_REACH * spread / width))
            density = np.convolve(density, width * _normal(width * np.arange(-taps, taps + 1), spread))
            density = density[taps : taps + _BRIDGE_CELLS]
        before = time
    if not density.size:
        return 1.0
    return float(width * density @ _normal(cells, math.sqrt(1 - before))) * math.sqrt(2 * math.pi)


def _normal(x: NDArray[np.floating], spread: float) -> Floats:
    return np.exp(-0.5 * (x / spread) ** 2) / (spread * math.sqrt(2 * math.pi))
