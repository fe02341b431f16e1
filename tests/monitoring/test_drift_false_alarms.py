"""How often the gate cries wolf, on counts as windows and references of one distribution have them.

``benchmarks/drift_false_alarms.py`` does the same at length.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from harness.evidence import Status
from harness.monitoring import DriftOptions
from harness.monitoring.drift import DriftReport, compare_profiles
from harness.monitoring.features.counts import CategoricalCounts, FeatureCounts, NumericCounts
from harness.monitoring.features.values import BUCKETS, bucket_of
from harness.monitoring.profiles import Profile

ALPHA = 0.05
REPEATS = 300
BINS = 40
LISTED = 100
NAMES = tuple(f"level{number}" for number in range(150))
BUCKET = np.array([bucket_of(name) for name in NAMES])

Pair = tuple[FeatureCounts, FeatureCounts]


def on_quantiles(rng: np.random.Generator, m: int, n: int) -> Pair:
    """Any continuous distribution: between quantiles of a reference lie shares that follow a Dirichlet distribution."""
    ranks = np.ceil(np.arange(1, BINS) * m / BINS).astype(int)
    shares = rng.dirichlet(np.diff(np.concatenate([[0], ranks, [m + 1]])))
    edges = np.arange(1.0, BINS)
    return NumericCounts(edges, np.diff(np.concatenate([[0], ranks, [m]]))), NumericCounts(edges, rng.multinomial(n, shares))


def tied(rng: np.random.Generator, m: int, n: int) -> Pair:
    """Zeros in most rows, and a few other values, each in its own bin."""
    shares = np.array([0.7, 0.1, 0.08, 0.06, 0.04, 0.02])
    values = np.arange(len(shares), dtype=np.float64)
    after = np.where(values == 0, np.finfo(np.float64).tiny, np.nextafter(values, np.inf))
    edges = np.stack([values, after], axis=1).ravel()
    reference, current = (np.zeros(len(edges) + 1, np.int64) for _ in range(2))
    reference[1::2], current[1::2] = rng.multinomial(m, shares), rng.multinomial(n, shares)
    return NumericCounts(edges, reference), NumericCounts(edges, current)


def levels(rng: np.random.Generator, m: int, n: int, count: int) -> Pair:
    """So many levels, all as frequent, of which a reference lists a hundred."""
    reference, current = (rng.multinomial(size, np.full(count, 1 / count)) for size in (m, n))
    order = np.argsort(-reference, kind="stable")
    listed = [level for level in order if reference[level]][:LISTED]
    names = tuple(NAMES[level] for level in listed)
    return _counted(names, listed, reference), _counted(names, listed, current)


def _counted(names: tuple[str, ...], listed: list[int], counts: NDArray[np.int64]) -> CategoricalCounts:
    buckets = np.bincount(BUCKET[: len(counts)], counts, minlength=BUCKETS).astype(np.int64)
    return CategoricalCounts(names, counts[listed], int(counts.sum() - counts[listed].sum()), buckets=buckets)


def report_of(seed: int, m: int, n: int) -> DriftReport:
    rng = np.random.default_rng([seed, m, n])
    pairs = {"quantiles": on_quantiles(rng, m, n), "tied": tied(rng, m, n)}
    pairs |= {f"{count} levels": levels(rng, m, n, count) for count in (2, 20, 110)}
    sides = [Profile.of(size, {name: pair[side] for name, pair in pairs.items()}, {}) for side, size in enumerate((m, n))]
    return compare_profiles(*sides, DriftOptions(alpha=ALPHA))


@pytest.mark.parametrize(("m", "n"), [(5_000, 200), (500, 50), (2_000, 20_000)])
def test_the_whole_gate_cries_wolf_no_more_often_than_alpha(m: int, n: int) -> None:
    reports = [report_of(seed, m, n) for seed in range(REPEATS)]
    significant = sum(any(verdict.is_significant for one in report.features for verdict in one.verdicts) for report in reports)
    assert significant <= stats.binom.ppf(0.999, REPEATS, ALPHA)
    assert sum(report.status is Status.FAIL for report in reports) <= stats.binom.ppf(0.999, REPEATS, ALPHA)


def test_levels_as_frequent_as_each_other_are_not_grouped_by_what_the_window_has_of_them() -> None:
    """A profile lists levels by their counts in the reference, which of levels with equal sums orders them by the window's."""
    alarms = 0
    for seed in range(REPEATS):
        reference, current = levels(np.random.default_rng(seed), 5_000, 200, 110)
        sides = [Profile.of(size, {"x": side}, {}) for size, side in ((5_000, reference), (200, current))]
        alarms += compare_profiles(*sides)["x"].verdicts[0].is_significant
    assert alarms <= stats.binom.ppf(0.999, REPEATS, ALPHA)
