"""Counts are exact, whatever the values."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from harness.monitoring.drift import compare_profiles
from harness.monitoring.features.counts import NumericCounts
from harness.monitoring.features.edges import choose_edges
from harness.monitoring.features.numeric import count_numbers
from harness.monitoring.profiles import profile_columns

ANY_FLOATS = arrays(np.float64, st.integers(0, 200), elements=st.floats(allow_subnormal=False))
FEW_FLOATS = arrays(
    np.float64, st.integers(0, 200), elements=st.sampled_from([-math.inf, -1.0, -0.0, 0.0, 0.1, 7.0, math.inf, math.nan])
)


def plainly_counted(edges: np.ndarray, values: np.ndarray) -> list[int]:
    """The definition: bin i holds ``edges[i - 1] <= x < edges[i]``."""
    bounds = [-math.inf, *edges, math.inf]
    finite = values[np.isfinite(values)]
    return [int(((finite >= low) & (finite < high)).sum()) for low, high in itertools.pairwise(bounds)]


@settings(deadline=None)
@given(ANY_FLOATS, ANY_FLOATS)
def test_every_value_falls_where_the_definition_says(reference: np.ndarray, values: np.ndarray) -> None:
    edges = np.unique(reference[np.isfinite(reference)])
    found = count_numbers(edges, values)
    assert found.counts.tolist() == plainly_counted(edges, values)
    assert found.nan == np.isnan(values).sum()
    assert found.positive_inf == (values == math.inf).sum()
    assert found.negative_inf == (values == -math.inf).sum()
    assert found.n == len(values)


def test_pieces_that_are_sorted_one_by_one_are_counted_as_one() -> None:
    values = np.random.default_rng(0).standard_normal(100_000)
    values[::1000] = np.nan
    edges = np.quantile(values[np.isfinite(values)], np.arange(1, 100) / 100)
    assert count_numbers(edges, values).counts.tolist() == plainly_counted(edges, values)


@settings(deadline=None)
@given(FEW_FLOATS | ANY_FLOATS, st.integers(2, 40))
def test_a_reference_has_as_many_bins_as_asked_for_at_most(values: np.ndarray, bins: int) -> None:
    distinct, weights = np.unique(values[np.isfinite(values)], return_counts=True)
    edges = choose_edges(distinct, weights, bins)
    assert len(edges) < bins
    assert (np.diff(edges) > 0).all()
    assert np.isfinite(edges).all()


@pytest.mark.parametrize("share", [0.015, 0.05, 0.5, 0.99])
def test_a_frequent_value_has_a_bin_of_its_own(share: float) -> None:
    rng = np.random.default_rng(0)
    values = np.where(rng.random(20_000) < share, 0.1, rng.standard_normal(20_000))
    counts = profile_columns({"x": values}).features["x"]
    assert isinstance(counts, NumericCounts)
    place = int(np.searchsorted(counts.edges, 0.1, side="right"))
    assert counts.counts[place] == (values == 0.1).sum()
    assert len(counts.counts) <= 100


def test_few_distinct_values_have_a_bin_each_and_what_lies_between_has_others() -> None:
    reference = profile_columns({"x": np.array([1.0, 2.0, 3.0] * 50)})
    window = profile_columns({"x": np.array([1.0, 1.5, 2.0, 2.0, 9.0, -9.0])}, reference)
    assert [int(count) for count in window.features["x"].counts] == [1, 1, 1, 2, 0, 0, 1]


def test_a_constant_is_told_from_what_is_beside_it() -> None:
    reference = profile_columns({"x": np.full(1000, 0.1)})
    window = profile_columns({"x": np.array([np.nextafter(0.1, 0), 0.1, 0.1, np.nextafter(0.1, 1)])}, reference)
    assert reference.features["x"].counts.tolist() == [0, 1000, 0]
    assert window.features["x"].counts.tolist() == [1, 2, 1]


def test_zero_is_an_atom_too_and_has_one_sign() -> None:
    reference = profile_columns({"x": np.array([0.0, -0.0] * 50)})
    window = profile_columns({"x": np.array([-1e-300, 0.0, -0.0, 1e-300])}, reference)
    assert window.features["x"].counts.tolist() == [1, 2, 1]


def test_nearly_as_many_values_as_bins_have_a_bin_each() -> None:
    values = np.repeat(np.arange(90.0), 30)
    counts = profile_columns({"x": values}).features["x"].counts
    assert sorted(counts.tolist())[-90:] == [30] * 90


def test_skewed_values_are_spread_evenly_over_the_bins() -> None:
    values = np.exp(5 * np.random.default_rng(0).standard_normal(50_000))
    counts = profile_columns({"x": values}).features["x"].counts
    assert len(counts) == 100
    assert counts.max() < 1.3 * 500
    assert counts[1:-4].min() > 0.7 * 500
    assert (
        counts[[0, *range(-4, 0)]].tolist() == [0] * 5
    )  # below the least value, above the greatest, and 10 to 1,000 times as large


def test_what_is_not_finite_is_counted_apart() -> None:
    reference = profile_columns({"x": np.array([1.0, np.nan, np.inf, -np.inf, 2.0, np.nan])})
    found = reference.features["x"]
    assert (found.finite, found.nan, found.positive_inf, found.negative_inf) == (2, 2, 1, 1)


def test_a_reference_without_a_finite_value_has_one_bin() -> None:
    reference = profile_columns({"x": np.array([np.nan, np.inf])})
    window = profile_columns({"x": np.array([1.0, -np.finfo(float).max, np.nan])}, reference)
    assert window.features["x"].counts.tolist() == [2]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int8, np.uint64, np.int64, bool])
def test_any_numeric_type_is_counted_as_the_same_numbers(dtype: type) -> None:
    values = np.random.default_rng(0).integers(0, 2 if dtype is bool else 100, 5000)
    reference = profile_columns({"x": values.astype(np.float64)})
    window = profile_columns({"x": values.astype(dtype)}, reference)
    assert window.features["x"].counts.tolist() == reference.features["x"].counts.tolist()


def test_the_least_and_the_greatest_of_few_values_are_edges_though_a_sketch_drops_them() -> None:
    values = np.random.default_rng(0).integers(0, 25, 20_000) / 2
    values[[5_000, 9_000]] = [-3.0, 40.0]
    reference = profile_columns({"x": values})
    window = values[::25].copy()
    assert compare_profiles(reference, profile_columns({"x": window}, reference)).status.value == "ok"
    window[:32] *= 1000
    (verdict, *_) = compare_profiles(reference, profile_columns({"x": window}, reference))["x"].verdicts
    assert verdict.message.startswith("the range of `x` has drifted: ")
    assert "outside -3 to 40, most of them 100 to 1,000 times as large: other units?" in verdict.message
