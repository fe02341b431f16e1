"""Categories compared: frequent levels one by one, rare ones pooled, and missing values.

No rule about cells may look at the difference of the samples, only at what they hold together, or the test finds drift in its own choice.
That is harder than it sounds: a profile's levels are those its reference has many of, so that the reference's counts are high by that very
choice, and a level it never had is not among them at all.

Several values a row, such as the tokens of a text, hang together, and count for fewer than they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from harness.monitoring import DriftOptions
from harness.monitoring.features import ALIKE, TOO_FEW, Difference, Effect, Resolution, nothing_to_compare
from harness.monitoring.features.counts import CategoricalCounts, Clusters
from harness.monitoring.features.values import bucket_of
from harness.monitoring.statistics import contingency_p_value, cramers_v, ks_p_value, noncentrality_for

MISSING = "missing values"
"""The aspect of a difference that is about how many values are missing."""


def compare_categories(
    feature: str, reference: CategoricalCounts, current: CategoricalCounts, options: DriftOptions
) -> Iterable[Difference]:
    """The difference of the values that are not missing; none of features with several values a row, which ``compare_clusters`` compares."""
    if reference.clusters is not None:
        return []
    return [compare_cells(feature, "values", cells_of(reference, current, options.least_expected), options)]


def compare_absent(
    feature: str, reference: CategoricalCounts, current: CategoricalCounts, options: DriftOptions
) -> Iterable[Difference]:
    """The difference of the shares of missing values; none where neither sample has any."""
    if reference.clusters is not None:
        return []
    before, now = (np.array([side.present, side.missing], np.int64) for side in (reference, current))
    return compare_shares(feature, ("values that are there", "missing values"), before, now, options)


def compare_shares(
    feature: str, labels: tuple[str, ...], reference: Counts, current: Counts, options: DriftOptions
) -> list[Difference]:
    """The difference of a feature's missing values; none where neither sample has any.

    Args:
        feature: Name of the feature.
        labels: What the values are, first those that are not missing, ``K``.
        reference: How many of each the reference has, ``[K]``.
        current: How many of each the window has, ``[K]``.
        options: How they are compared.
    """
    cells = Cells(labels, reference, current)
    if not cells.pooled[1:].any():
        return []
    return [compare_cells(feature, MISSING, cells.filled, options)]


def compare_cells(feature: str, aspect: str, cells: Cells, options: DriftOptions) -> Difference:
    """The difference of two samples in a table."""
    m, n = int(cells.reference.sum()), int(cells.current.sum())
    df = max(len(cells.labels) - 1, 1)
    resolution = Resolution(partial(chi_square_constant, df=df), m, n)
    if not (m and n) or len(cells.labels) < 2:
        return nothing_to_compare(feature, aspect, "chi-square", "Cramér's V", options.floors.cramers_v, resolution, ALIKE)
    return Difference(
        feature=feature,
        aspect=aspect,
        test="chi-square",
        p=contingency_p_value(cells.reference, cells.current, options.draws),
        effect=Effect("Cramér's V", *cramers_v(cells.reference, cells.current), options.floors.cramers_v),
        resolution=resolution,
        where=where_in(cells),
    )


def chi_square_constant(alpha: float, power: float, df: int) -> float:
    """Cramér's V that the test finds, in units of ``sqrt(1/n + 1/m)``: V squared is the noncentrality over ``4 / (1/n + 1/m)``."""
    return math.sqrt(noncentrality_for(power, alpha, df)) / 2


def where_in(cells: Cells) -> str:
    """``'cat' went from 12% to 31%``, of the named cell that makes most of the difference."""
    p, q = cells.reference / cells.reference.sum(), cells.current / cells.current.sum()
    parts = np.where([bool(label) for label in cells.labels], (p - q) ** 2 / (p + q), -1.0)
    most = int(parts.argmax())
    if parts[most] <= 0:
        return ""
    return f"{cells.labels[most]} went from {p[most]:.1%} to {q[most]:.1%}"


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


def cells_of(reference: CategoricalCounts, current: CategoricalCounts, least: float = MIN_EXPECTED) -> Cells:
    """The cells of a feature's levels, each expecting so many values of either sample at least where there are enough for two such."""
    cells = _levels_and_buckets(reference, current).filled
    m, n = int(cells.reference.sum()), int(cells.current.sum())
    if len(cells.labels) < 2 or not (m and n):
        return cells
    groups = _packed(cells.pooled, least * (m + n) / min(m, n))
    if len(groups) == 1:
        first, *others = groups[0]
        groups = [[first], others]
    return cells.grouped(groups)


def _levels_and_buckets(reference: CategoricalCounts, current: CategoricalCounts) -> Cells:
    """The levels that are certain, and by bucket what remains.

    In the order of their names: a profile lists levels by their counts in the reference, so that of two with equally many values in both
    samples together, its order would tell which has more of them in the window.
    """
    m, n = reference.present, current.present
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


_FEWEST_ROWS = 10


def compare_clusters(
    feature: str, reference: CategoricalCounts, current: CategoricalCounts, options: DriftOptions
) -> Iterable[Difference]:
    """The difference of values that hang together by row.

    Each bucket of levels has its own design effect, by which the variance of its share exceeds that of independent values (Rao and Scott
    1981). Their joint covariance is not in a profile, and a chi-square scaled by the mean design effect finds topics where it should find
    drift; so each bucket is tested by itself, on counts divided by its design effect, and the least of their p-values is corrected for their
    number (Bonferroni). Of the design effects of the reference, of the window and of both together the largest counts, since a text that
    repeats one word a hundred times shows only in that of the sample it is in.

    Returns:
        One difference; none of features with one value a row.
    """
    if reference.clusters is None:
        return []
    floor = options.floors.cramers_v
    m, n = int(reference.buckets.sum()), int(current.buckets.sum())
    design, p_values = _tests(reference, current)
    filled = np.flatnonzero(reference.buckets + current.buckets)
    per_row = n / max(1, current.clusters.rows if current.clusters else n)
    resolution = Resolution(partial(_constant, tests=max(1, len(p_values))), m, n, design=design, per_row=max(per_row, 1.0))
    if not p_values:
        why = ALIKE if len(filled) == 1 else TOO_FEW
        return [nothing_to_compare(feature, "values", "chi-square by bucket", "Cramér's V", floor, resolution, why)]
    bucket = min(p_values, key=lambda bucket: p_values[bucket])
    found = Difference(
        feature=feature,
        aspect="values",
        test="chi-square by bucket",
        p=min(1.0, len(p_values) * p_values[bucket]),
        effect=Effect("Cramér's V", *cramers_v(reference.buckets[filled], current.buckets[filled], design), floor),
        resolution=resolution,
        where=_where(reference, current, bucket),
    )
    return [found]


def _tests(reference: CategoricalCounts, current: CategoricalCounts) -> tuple[float, dict[int, float]]:
    """The mean design effect, and a p-value for every bucket that can be tested."""
    one, other = reference.clusters, current.clusters
    if one is None or other is None or min(one.rows, other.rows) < _FEWEST_ROWS:
        return 1.0, {}
    pooled = reference.buckets + current.buckets
    both = design_effects(pooled, one.merge(other))
    each = [design_effects(side.buckets, clusters) for side, clusters in ((reference, one), (current, other))]
    largest = np.maximum(both, np.maximum(*each))
    shares = pooled / pooled.sum()
    weights = (1 - shares) * (shares > 0)
    mean = float(both @ weights / max(weights.sum(), 1e-12))
    return mean, {bucket: _p_value(reference, current, bucket, largest[bucket]) for bucket in _tested(reference, current, both)}


def _where(reference: CategoricalCounts, current: CategoricalCounts, bucket: int) -> str:
    """What happened to the level that makes most of a bucket's difference."""
    inside = [place for place, level in enumerate(reference.levels) if bucket_of(level) == bucket]
    sides = [np.array([*side.counts[inside], side.buckets.sum() - side.counts[inside].sum()]) for side in (reference, current)]
    return where_in(Cells((*(repr(reference.levels[place]) for place in inside), ""), *sides))


def design_effects(values: NDArray[np.int64], clusters: Clusters) -> NDArray[np.float64]:
    """By how much the variance of each bucket's share exceeds that of independent values; at least 1, and 1 of an empty bucket.

    Args:
        values: Values by bucket, int64 ``[H]``.
        clusters: How they hang together.
    """
    total = max(int(values.sum()), 1)
    share = values / total
    squares = np.array(clusters.squares) - 2 * share * np.array(clusters.products) + share**2 * clusters.lengths
    variance = squares * clusters.rows / max(clusters.rows - 1, 1)
    independent = np.maximum(total * share * (1 - share), 1e-12)
    return np.maximum(1.0, np.where((share > 0) & (share < 1), variance / independent, 1.0))


def _tested(reference: CategoricalCounts, current: CategoricalCounts, design: NDArray[np.float64]) -> list[int]:
    """The buckets that expect enough of either sample."""
    pooled = reference.buckets + current.buckets
    m, n = int(reference.buckets.sum()), int(current.buckets.sum())
    expected = np.minimum(pooled, m + n - pooled) / design * min(m, n) / (m + n)
    return [int(bucket) for bucket in np.flatnonzero(expected >= MIN_EXPECTED)]


def _p_value(reference: CategoricalCounts, current: CategoricalCounts, bucket: int, design: float) -> float:
    sides = [
        np.array([side.buckets[bucket], side.buckets.sum() - side.buckets[bucket]]) / design for side in (reference, current)
    ]
    one, other = (np.rint(side).astype(np.int64) for side in sides)
    return ks_p_value(one, other) if one.any() and other.any() else 1.0


def _constant(alpha: float, power: float, tests: int = 1) -> float:
    return float(np.sqrt(noncentrality_for(power, alpha / tests, 1))) / 2
