"""Scores that are numbers: sign flips and the bootstrap, against SciPy's, and where both are at their limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, bootstrap, permutation_test

from harness.monitoring.gate.paired_tests import BootstrapMean, Measurement, StudentMean, measure
from harness.monitoring.gate.pairs import Pairs
from harness.statistics import sign_flip_p

Values = NDArray[np.float64]


def drawn(kind: str, samples: int, seed: int = 0) -> Values:
    random = np.random.default_rng(seed)
    if kind == "normal":
        return random.normal(0.2, size=samples)
    if kind == "skewed":
        return random.lognormal(size=samples) - 1.2
    if kind == "heavy":
        return random.standard_t(2, size=samples) + 0.3
    return random.choice([-0.25, 0.0, 0.0, 0.0, 0.5], size=samples)


def measured(worsening: Values, margin: float = 0.1) -> Measurement:
    known = np.ones(len(worsening), bool)
    return measure(Pairs(np.full(len(worsening), 5.0), 5.0 + worsening, False, known), margin, 0.05)


@pytest.mark.parametrize("kind", ["normal", "skewed", "heavy", "ties"])
def test_few_sign_flips_are_enumerated(kind: str) -> None:
    values = drawn(kind, 10)
    reference = permutation_test((values,), np.sum, permutation_type="samples", alternative="greater", n_resamples=np.inf)
    assert sign_flip_p(values) == pytest.approx(reference.pvalue)


@pytest.mark.parametrize("kind", ["normal", "skewed", "heavy", "ties"])
@pytest.mark.parametrize("samples", [30, 300])
def test_many_sign_flips_are_as_if_enumerated(kind: str, samples: int) -> None:
    values = drawn(kind, samples, seed=1)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(40_000, samples))
    reference = np.mean(signs @ values >= values.sum() - 1e-9)
    assert sign_flip_p(values) == pytest.approx(reference, rel=0.05, abs=3e-3)


@pytest.mark.parametrize(("worse", "better"), [(20, 5), (60, 40), (300, 250), (40, 0), (10, 30)])
def test_flips_of_equal_differences_are_the_binomial_test(worse: int, better: int) -> None:
    values = np.r_[np.full(worse, 0.3), np.full(better, -0.3), np.zeros(1000)]
    exact = binom.sf(worse - 1, worse + better, 0.5)
    assert sign_flip_p(values) == pytest.approx(exact, rel=0.08 if better else 0.6)


def test_flips_reach_far_into_the_tail() -> None:
    values = np.r_[np.full(900, 1.0), np.full(600, -1.0)]
    assert math.log(sign_flip_p(values)) == pytest.approx(binom.logsf(899, 1500, 0.5), rel=1e-3)


@pytest.mark.parametrize("kind", ["normal", "skewed", "heavy"])
def test_the_interval_is_that_of_many_resamples(kind: str) -> None:
    values = drawn(kind, 120)
    options = {"method": "BCa", "confidence_level": 0.9, "n_resamples": 40_000, "batch": 2000, "rng": 0}
    reference = bootstrap((values,), np.mean, **options).confidence_interval
    ours = BootstrapMean(values)
    # SciPy's has normal quantiles; at 120 samples Student's are 1% wider.
    assert ours.interval(0.05) == pytest.approx(tuple(reference), abs=0.04 * (reference.high - reference.low))


@pytest.mark.parametrize("kind", ["normal", "skewed", "heavy", "ties"])
@pytest.mark.parametrize("samples", [10, 40, 3000])
def test_p_is_the_alpha_whose_interval_ends_there(kind: str, samples: int) -> None:
    ours = BootstrapMean(drawn(kind, samples))
    for alpha in (0.3, 0.05, 0.01):
        low, high = ours.interval(alpha)
        assert ours.p_at_most(low) == pytest.approx(alpha, rel=1e-3)
        assert ours.p_at_least(high) == pytest.approx(alpha, rel=1e-3)


def test_the_bootstrap_of_normal_differences_is_student_at_any_n() -> None:
    for samples in (15, 100, 1000):
        values = np.random.default_rng(samples).normal(size=samples)
        values = np.r_[values, -values] + 0.1
        (low, high), (t_low, t_high) = BootstrapMean(values).interval(0.05), StudentMean(values).interval(0.05)
        assert (low, high) == pytest.approx((t_low, t_high), abs=0.05 * (t_high - t_low))


@pytest.mark.parametrize("kind", ["heavy", "ties"])
def test_equal_models_are_significant_at_most_at_alpha(kind: str) -> None:
    random = np.random.default_rng(0)
    significant = 0
    for seed in range(1000):
        values = drawn(kind, 50, seed) * random.choice([-1.0, 1.0], size=50)
        significant += measured(values).p <= 0.05
    assert significant <= binom.ppf(0.999, 1000, 0.05)


def test_all_differences_alike() -> None:
    same, worse = measured(np.zeros(30)), measured(np.full(30, 0.2))
    assert (same.p, same.margin_p, same.interval, same.identical) == (1.0, 0.0, (0.0, 0.0), True)
    assert worse.p < 1e-6
    assert worse.margin_p == 1.0
    assert worse.interval == pytest.approx((0.2, 0.2))
    assert measured(np.full(3, 0.2)).p == 0.125


def test_few_differences_are_judged_by_student_and_by_flips() -> None:
    values = np.array([0.1, 0.2, 0.3])
    found = measured(values)
    assert found.interval == pytest.approx((min(0.0, 0.2 - 2.92 * 0.1 / math.sqrt(3)), 0.2 + 2.92 * 0.1 / math.sqrt(3)), rel=1e-3)
    assert found.p == 0.125


@pytest.mark.parametrize("unit", [1e-300, 1e-12, 1e30, 1e300])
def test_the_unit_of_a_score_does_not_matter(unit: float) -> None:
    values = drawn("skewed", 100)
    known = np.ones(100, bool)
    plain, scaled = (measure(Pairs(np.zeros(100), values * factor, False, known), 0.1 * factor, 0.05) for factor in (1.0, unit))
    assert (scaled.p, scaled.margin_p) == pytest.approx((plain.p, plain.margin_p), rel=1e-6)
    assert scaled.interval == pytest.approx(tuple(unit * end for end in plain.interval), rel=1e-6)


@pytest.mark.parametrize(
    "values",
    [np.r_[np.zeros(999), 1.0], np.r_[np.zeros(30), 1e30], np.r_[np.zeros(11), 1, -1e-30], np.r_[np.ones(20), 1 + 1e-7]],
    ids=["one of 1000", "one outlier", "one and nearly nothing", "nearly alike"],
)
@pytest.mark.filterwarnings("error")
def test_differences_with_hardly_any_spread(values: Values) -> None:
    found = measured(values)
    assert 0 < found.p <= 1
    assert found.interval[0] <= found.worsening * (1 + 1e-9)
    assert found.interval[1] >= found.worsening * (1 - 1e-9)


def test_a_million_samples_in_blocks() -> None:
    values = np.random.default_rng(0).standard_t(3, size=1_000_000)
    shifted = measured(values - values.mean() + 0.005, margin=0.01)
    assert shifted.p == pytest.approx(StudentMean(values - values.mean() + 0.005).p_at_most(0.0), rel=0.05)
    assert shifted.interval == pytest.approx(StudentMean(values - values.mean() + 0.005).interval(0.05), rel=0.01)
