"""p-values and effect sizes of two samples: of numbers in bins (Kolmogorov-Smirnov), and of categories (chi-square).

The Kolmogorov-Smirnov statistic D is taken over the inner edges of the bins only. Its usual tables assume all points, and would cost power
here. So its probability is computed for these very edges, ties included; only what lies between two edges is lost. Categories are compared by
chi-square, or by permutations where cells are small, with Cramér's V as the effect. Sound windows differ by more than chance
within each of them; ``Usual`` knows by how much.

SciPy is imported when first needed: its special functions take a quarter of a second to load, and numbers are compared without them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
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


PLENTY = 20.0
"""Values expected in a cell from which on the chi-square distribution holds far into its tail."""

_CLEARLY_NONE = 0.3
_MOST_COLORS = 10**9 - 1  # of NumPy's hypergeometric distribution


def contingency_p_value(reference: Counts, current: Counts, draws: int) -> float:
    """Probability of a chi-square as large where both samples are of one distribution.

    Two categories are counted out exactly. Of more, where some cell expects few values, the two samples are dealt out again at random, given
    how many values of both are in each category, until the answer is clear (Besag and Clifford 1991, "Sequential Monte Carlo p-values"); the
    draws are the same in every run.

    Args:
        reference: Counts by category, ``[K]``, each category with a value in either sample.
        current: Counts by category.
        draws: Most draws; the p-value cannot be below ``1 / (draws + 1)`` then. 0 where none is wanted, and it is 1.
    """
    if len(reference) < 2 or not draws:
        return 1.0
    if len(reference) == 2:
        return ks_p_value(reference, current)
    statistic = chi_square(reference, current[None])[0]
    p = chi_square_tail(statistic, len(reference) - 1)
    if least_expected(reference, current) >= PLENTY or p > _CLEARLY_NONE:
        return p
    return _dealt_out(reference + current, int(current.sum()), statistic, draws)


def chi_square(reference: Counts, current: Counts) -> NDArray[np.float64]:
    """Pearson's statistic of two samples.

    Args:
        reference: Counts by category, ``[K]`` or ``[R, K]``.
        current: Counts by category, ``[R, K]``; in each row as many as in the others.
    """
    pooled = reference + current
    share = current[0].sum() / pooled[0].sum()
    gaps = current - pooled * share
    return (gaps**2 / pooled).sum(axis=-1) / (share * (1 - share))


def least_expected(reference: Counts, current: Counts) -> float:
    """The fewest values that any cell of the table expects."""
    pooled = reference + current
    return float(pooled.min()) * min(int(reference.sum()), int(current.sum())) / int(pooled.sum())


def _dealt_out(pooled: Counts, n: int, statistic: float, draws: int) -> float:
    generator = np.random.default_rng(0)

    def draw(rows: int) -> NDArray[np.float64]:
        current = _deal(generator, pooled, n, rows)
        return chi_square(pooled - current, current)

    return permutation_p_value(statistic, draw, draws)


def _deal(generator: np.random.Generator, pooled: Counts, n: int, rows: int) -> Counts:
    """Ways to take ``n`` of the values, ``[rows, K]``."""
    total = int(pooled.sum())
    if total > _MOST_COLORS:
        return generator.multinomial(n, pooled / total, size=rows)
    return generator.multivariate_hypergeometric(pooled, n, size=rows, method="marginals")


def cramers_v(reference: Counts, current: Counts, design: float = 1.0) -> tuple[float, float, float]:
    """Cramér's V less its bias (Bergsma 2013), with a 95% interval.

    V as it is usually computed shrinks as the one sample outgrows the other, so that a reference of a million rows would hide any drift.
    Here both samples weigh the same; for samples of one size this is Bergsma's V. The interval is that of the noncentrality, so that it
    agrees with the test.

    Args:
        reference: Counts by category, ``[K]``, not all 0.
        current: Counts by category.
        design: How many values count as one independent value.

    Returns:
        V, and the lower and the upper end of its interval.
    """
    p, q = reference / reference.sum(), current / current.sum()
    size = max(effective_size(int(reference.sum()), int(current.sum())) / design, 3.0)
    phi2, df = float(((p - q) ** 2 / (2 * (p + q))).sum()), len(reference) - 1
    low, high = (math.sqrt(min(1.0, end / size)) for end in noncentrality_interval(size * phi2, df))
    value = max(0.0, phi2 - df / (size - 1)) / (1 - 1 / (size - 1))
    return math.sqrt(min(1.0, value)), low, high


def effective_size(m: int, n: int) -> float:
    """Rows of two samples of one size that show as much as ``m`` and ``n`` do."""
    return 4 * m * n / (m + n)


def chi_square_tail(value: float, df: float) -> float:
    """Probability of a larger value."""
    from scipy.special import chdtrc

    return float(chdtrc(df, value))


@lru_cache(maxsize=4096)
def noncentrality_for(power: float, alpha: float, df: float) -> float:
    """The noncentrality at which a test at level ``alpha`` rejects with probability ``power``; 0 where any does."""
    from scipy.special import chdtri, chndtrinc

    return float(chndtrinc(chdtri(df, alpha), df, 1 - power)) if power > alpha else 0.0


def noncentrality_interval(statistic: float, df: float) -> tuple[float, float]:
    """The 95% confidence interval of the noncentrality of a statistic (Smithson 2003, "Confidence intervals").

    A statistic below its mean without any difference leaves as much possible as that mean.
    """
    from scipy.special import chdtr, chndtrinc

    tail = 0.025
    low = float(chndtrinc(statistic, df, 1 - tail)) if chdtr(df, statistic) > 1 - tail else 0.0
    return low, float(chndtrinc(max(statistic, df), df, tail))


_ENOUGH = 20
_FIRST_BATCH = 64
_BATCH = 512


def permutation_p_value(observed: float, draw: Callable[[int], NDArray[np.float64]], draws: int) -> float:
    """Share of statistics at least as large as the observed one, drawn until it is clear (Besag and Clifford 1991).

    Twenty that are as large are enough to know that the share is not small; their number over that of all drawn until then is a valid p-value
    as well, at a fraction of the work where there is no drift.

    Args:
        observed: The statistic of the samples as they are.
        draw: Draws so many statistics without drift.
        draws: How many to draw at most; the p-value is at least ``1 / (draws + 1)``.
    """
    least = observed - 1e-9 * abs(observed)  # equal ones may differ by rounding
    larger = drawn = 0
    while drawn < draws:
        statistics = draw(min(_BATCH if drawn else _FIRST_BATCH, draws - drawn))
        hits = np.flatnonzero(statistics >= least)
        if larger + len(hits) >= _ENOUGH:
            return _ENOUGH / (drawn + int(hits[_ENOUGH - larger - 1]) + 1)
        larger += len(hits)
        drawn += len(statistics)
    return (larger + 1) / (drawn + 1)


@dataclass(frozen=True)
class Usual:
    """One difference in windows that are sound.

    Attributes:
        effects: How large it was in each, ascending.
        noise: What chance within a window makes of the mean of their squares.
    """

    effects: tuple[float, ...]
    noise: float = 0.0

    @property
    def largest(self) -> float:
        """The largest effect."""
        return self.effects[-1]

    def alike(self, effect: float) -> int:
        """In how many windows the difference was as large."""
        return sum(each >= effect for each in self.effects)

    def p_value(self, effect: float, noise: float) -> float:
        """Probability of a difference as large in a further sound window.

        A window's difference is a draw from a distribution with mean 0, whose variance is known from ``K`` other draws: Student's t of ``K - 1``
        degrees of freedom. A difference along one direction, such as all values being larger, has the heaviest tail of those that count
        (one degree of freedom); others are rarer than that. What the tail says of holidays nobody knows, so a difference that was as large
        in any sound window is none at all.

        Args:
            effect: How large it is, less its value without any difference.
            noise: What chance within the window makes of its square.
        """
        if self.alike(effect):
            return 1.0
        from scipy.special import stdtr

        scale = self._scale(noise)
        return 2 * float(stdtr(len(self.effects) - 1, -effect / scale)) if scale else 0.0

    def detectable(self, noise: float, alpha: float) -> float:
        """From which effect on a difference is larger than what is usual."""
        from scipy.special import stdtrit

        beyond = float(stdtrit(len(self.effects) - 1, 1 - alpha / 2)) * self._scale(noise)
        return max(self.largest, beyond)

    def _scale(self, noise: float) -> float:
        """The root of the mean square; of a window of fewer rows chance alone makes more of it."""
        return math.sqrt(sum(each**2 for each in self.effects) / len(self.effects) + max(0.0, noise - self.noise))
