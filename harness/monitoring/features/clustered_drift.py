"""Several values a row, such as the tokens of a text: they hang together, and count for fewer than they are."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from harness.monitoring.features.category_drift import MIN_EXPECTED, Cells, where_in
from harness.monitoring.features.counts import CategoricalCounts, Clusters
from harness.monitoring.features.levels import bucket_of
from harness.monitoring.options import DriftOptions
from harness.monitoring.statistics.contingency import cramers_v, noncentrality_for
from harness.monitoring.statistics.difference import ALIKE, TOO_FEW, Difference, Effect, Resolution, nothing_to_compare
from harness.monitoring.statistics.kolmogorov import ks_p_value

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

    Args:
        feature: Name of the feature.
        reference: Its counts in the reference.
        current: Its counts in the window.
        options: How they are compared.

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
