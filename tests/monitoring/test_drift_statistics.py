"""The statistics of drift, against SciPy's and against counting out every case."""

from __future__ import annotations

import math
from itertools import combinations, product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special, stats
from scipy.stats.contingency import association

from harness.monitoring.features.category_drift import design_effects
from harness.monitoring.features.counts import Clusters
from harness.monitoring.features.new_levels import unseen_p_value
from harness.monitoring.statistics import (
    SMALLEST_P,
    chi_square,
    contingency_p_value,
    cramers_v,
    ks_critical,
    ks_distance,
    ks_p_value,
    noncentrality_for,
    noncentrality_interval,
    permutation_p_value,
)
from harness.statistics import false_discovery, holm

Counts = NDArray[np.int64]


def at_every_value(one: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[Counts, Counts]:
    """Two samples counted with an edge at every value of either."""
    values = np.unique(np.concatenate([one, other]))
    return tuple(np.bincount(np.searchsorted(values, side), minlength=len(values)) for side in (one, other))  # type: ignore[return-value]


def share_at_least_as_far(reference: Counts, current: Counts) -> float:
    """The p-value by dealing the values out to the two samples in every possible way."""
    pooled = np.repeat(np.arange(len(reference)), reference + current)
    observed = ks_distance(reference, current)
    far = total = 0
    for chosen in combinations(range(len(pooled)), int(current.sum())):
        dealt = np.bincount(pooled[list(chosen)], minlength=len(reference))
        far += ks_distance(reference + current - dealt, dealt) >= observed - 1e-12
        total += 1
    return far / total


@pytest.mark.parametrize(
    ("reference", "current"),
    [
        ([3, 2, 1], [0, 1, 4]),
        ([1, 1, 1, 1, 1], [0, 0, 1, 2, 1]),
        ([6, 0, 2], [1, 3, 1]),
        ([2, 2], [4, 0]),
        ([5, 3, 0, 1], [2, 2, 2, 0]),
    ],
)
def test_ks_on_bins_is_counted_out_exactly(reference: list[int], current: list[int]) -> None:
    one, other = np.array(reference), np.array(current)
    assert ks_p_value(one, other) == pytest.approx(share_at_least_as_far(one, other), rel=1e-10)


@pytest.mark.parametrize(("m", "n", "shift"), [(50, 60, 0.4), (100, 700, 0.3), (300, 300, 0.25)])
def test_ks_with_an_edge_at_every_value_is_scipys_exact_test(m: int, n: int, shift: float) -> None:
    rng = np.random.default_rng(m)
    one, other = rng.normal(size=m), rng.normal(shift, 1, n)
    expected = stats.ks_2samp(one, other, method="exact")
    counts = at_every_value(one, other)
    assert ks_distance(*counts) == pytest.approx(expected.statistic)
    assert ks_p_value(*counts) == pytest.approx(expected.pvalue, rel=1e-8)


@pytest.mark.parametrize("total", [100, 10_000, 10_000_000])
def test_ks_of_two_bins_is_the_hypergeometric_tail(total: int) -> None:
    n, inside = total // 3, total // 5
    spread = math.sqrt(inside * n / total * (1 - n / total) * (1 - inside / total))
    seen = round(inside * n / total + 2.7 * spread)
    p = ks_p_value(np.array([inside - seen, total - n - inside + seen]), np.array([seen, n - seen]))
    law = stats.hypergeom(total, inside, n)
    expected = law.sf(seen - 1) + law.cdf(math.floor(2 * inside * n / total - seen))
    assert p == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("bound", [0.9, 1.36, 1.9])
def test_ks_of_large_samples_is_the_same_whether_counted_out_or_by_a_bridge(
    bound: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    m = n = 5_000
    bins = 50
    reference = np.full(bins, m // bins)
    current = reference.copy()
    moved = round(bound * math.sqrt(2 / n) * n)
    current[0] += moved
    current[-1] -= moved
    counted = ks_p_value(reference, current)
    monkeypatch.setattr("harness.monitoring.statistics._EXACT_WORK", 0)
    assert ks_p_value(reference, current) == pytest.approx(counted, rel=0.02)
    assert counted < special.kolmogorov(bound), "read with the table for all points, bins would lose power"


def test_ks_of_the_same_counts_is_1_and_of_disjoint_ones_as_small_as_it_gets() -> None:
    half, other = np.array([5000, 0]), np.array([0, 5000])
    assert ks_p_value(half, half) == 1.0
    assert ks_p_value(half, other) == SMALLEST_P


def test_an_atom_that_makes_up_nearly_all_values_does_not_make_a_bridge_of_nothing() -> None:
    rng = np.random.default_rng(0)
    shares = np.r_[0.9995, np.full(60, 0.0005 / 60)]
    p_values = [ks_p_value(rng.multinomial(3_000_000, shares), rng.multinomial(3_000_000, shares)) for _ in range(40)]
    assert stats.kstest(p_values, "uniform").pvalue > 0.001


@pytest.mark.parametrize("edges", [1, 5, 99])
def test_the_critical_distance_is_an_upper_bound(edges: int) -> None:
    rng = np.random.default_rng(0)
    shares = np.full(edges + 1, 1 / (edges + 1))
    n = 2000
    far = [
        ks_distance(*(rng.multinomial(n, shares) for _ in range(2))) > ks_critical(0.05, edges) * math.sqrt(2 / n)
        for _ in range(600)
    ]
    assert np.mean(far) < 0.075


def test_two_categories_are_fishers_exact_test_but_for_which_cases_count_as_farther() -> None:
    table = np.array([[8, 2], [1, 9]])
    assert contingency_p_value(table[0], table[1], 1999) == pytest.approx(stats.fisher_exact(table).pvalue, rel=1e-9)


def test_plentiful_cells_are_scipys_contingency_test() -> None:
    table = np.array([[200, 310, 150, 40], [120, 260, 160, 60]])
    expected = stats.chi2_contingency(table, correction=False)
    assert chi_square(table[0], table[1][None])[0] == pytest.approx(expected.statistic)
    assert contingency_p_value(table[0], table[1], 1999) == pytest.approx(expected.pvalue, rel=1e-9)


def test_sparse_cells_are_dealt_out_at_random() -> None:
    table = np.array([[9, 3, 2, 0], [0, 1, 2, 5]])
    pooled, n = table.sum(axis=0), int(table[1].sum())
    observed = chi_square(table[0], table[1][None])[0]
    exact = 0.0
    for dealt in product(*(range(count + 1) for count in pooled)):
        if sum(dealt) == n:
            current = np.array(dealt)
            chance = math.prod(math.comb(int(count), k) for count, k in zip(pooled, dealt, strict=True))
            exact += (chi_square(pooled - current, current[None])[0] >= observed - 1e-9) * chance
    exact /= math.comb(int(pooled.sum()), n)
    estimated = contingency_p_value(table[0], table[1], 20_000)
    assert exact < 0.003
    assert estimated == pytest.approx(exact, abs=4 * math.sqrt(exact / 20_000))


def test_random_permutations_give_a_valid_p_value() -> None:
    def p_value(seed: int) -> float:
        rng = np.random.default_rng(seed)
        return permutation_p_value(rng.normal(), lambda count: rng.normal(size=count), 499)

    p_values = np.array([p_value(seed) for seed in range(2000)])
    for alpha in (0.01, 0.05, 0.2):
        assert np.mean(p_values <= alpha) <= alpha + 3 * math.sqrt(alpha / 2000)


def test_bias_corrected_v_of_samples_of_one_size_is_bergsmas() -> None:
    one, other = np.array([120, 60, 20]), np.array([80, 70, 50])
    n = 400
    plain = association(np.array([one, other]), method="cramer")
    rows, columns = 2 - 1 / (n - 1), 3 - 4 / (n - 1)
    expected = math.sqrt(max(0.0, plain**2 - 2 / (n - 1)) / (min(rows, columns) - 1))
    assert cramers_v(one, other)[0] == pytest.approx(expected, rel=1e-12)


def test_v_does_not_depend_on_how_much_larger_the_reference_is() -> None:
    current = np.array([600, 400])
    small, large = (cramers_v(np.array([500, 500]) * times, current)[0] for times in (1, 1000))
    assert small == pytest.approx(large, abs=0.01)


@pytest.mark.parametrize("levels", [2, 20])
@pytest.mark.parametrize("drift", [0.0, 0.3])
def test_the_interval_of_v_holds_the_true_one(levels: int, drift: float) -> None:
    rng = np.random.default_rng(levels)
    before = 1 / np.arange(1.0, levels + 1)
    before /= before.sum()
    after = (1 - drift) * before + drift / levels
    true = math.sqrt(float(((before - after) ** 2 / (2 * (before + after))).sum()))
    ends = [cramers_v(rng.multinomial(5000, before), rng.multinomial(800, after))[1:] for _ in range(300)]
    assert np.mean([low <= true <= high for low, high in ends]) > 0.92


@pytest.mark.parametrize("df", [1, 8, 150])
@pytest.mark.parametrize("alpha", [0.05, 1e-5])
def test_noncentralities_are_what_scipys_distribution_says(df: int, alpha: float) -> None:
    critical = stats.chi2.isf(alpha, df)
    assert stats.ncx2.sf(critical, df, noncentrality_for(0.8, alpha, df)) == pytest.approx(0.8, abs=1e-6)
    low, high = noncentrality_interval(3 * df + 20.0, df)
    assert stats.ncx2.sf([3 * df + 20.0] * 2, df, [low, high]) == pytest.approx([0.025, 0.975], abs=1e-6)
    assert noncentrality_interval(0.0, df)[0] == 0.0


def test_holm_steps_down_and_benjamini_hochberg_is_scipys() -> None:
    p_values = [0.04, 0.001, 0.03, 0.9, 0.001, 0.2]
    ranked = np.maximum.accumulate(np.sort(p_values) * np.arange(6, 0, -1)).clip(max=1.0)
    assert sorted(holm(p_values)) == pytest.approx(ranked)
    assert holm(p_values) == pytest.approx(holm(p_values, [1 / 6] * 6))
    assert false_discovery(p_values) == pytest.approx(stats.false_discovery_control(p_values))
    assert holm([]) == false_discovery([]) == []


def test_the_design_effect_of_rows_that_repeat_one_word_is_their_length() -> None:
    rng = np.random.default_rng(0)
    words = np.eye(4, dtype=np.int64)[rng.integers(0, 4, 5000)] * 10
    clusters = Clusters(5000, 100 * 5000, tuple((words**2).sum(axis=0).tolist()), tuple((words * 10).sum(axis=0).tolist()))
    assert design_effects(words.sum(axis=0), clusters) == pytest.approx(np.full(4, 10.0), rel=0.01)
    singles = rng.multinomial(10, np.full(4, 0.25), size=5000)
    squares, products = (singles**2).sum(axis=0), (singles * 10).sum(axis=0)
    found = design_effects(singles.sum(axis=0), Clusters(5000, 100 * 5000, tuple(squares.tolist()), tuple(products.tolist())))
    assert found == pytest.approx(np.ones(4), rel=0.1)


def test_good_turings_bound_holds_on_a_long_tail_and_sees_new_levels() -> None:
    rng = np.random.default_rng(0)

    def p_value(n: int, new: float = 0.0) -> float:
        reference, current = rng.zipf(1.4, 3000), rng.zipf(1.4, n)
        current[rng.random(n) < new] = -1
        counts = np.unique(reference, return_counts=True)[1]
        return unseen_p_value(3000, n, int((counts == 1).sum()), int((~np.isin(current, reference)).sum()))

    assert sum(p_value(500) <= 0.05 for _ in range(300)) <= 15
    assert p_value(500, new=0.2) < 1e-3
