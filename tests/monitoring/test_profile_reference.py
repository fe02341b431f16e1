"""A reference fixes its scales from bounded sketches, and counts every row on them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.errors import ProfileError
from harness.monitoring.features.counts import CategoricalCounts
from harness.monitoring.features.values import BUCKETS, HELD, LONGEST_NAME, Frequencies, QuantileSketch, bucket_of, level_name
from harness.monitoring.profiles import Profile, compute_dataset_profile, profile_columns


def categorical(profile: Profile, name: str = "x") -> CategoricalCounts:
    found = profile.features[name]
    assert isinstance(found, CategoricalCounts)
    return found


def rank_error(sketch: QuantileSketch, values: np.ndarray) -> float:
    """The largest share by which the sketch misplaces a value."""
    distinct, weights = sketch.weighted()
    true = np.searchsorted(np.sort(values), distinct, side="right")
    return float(np.abs(np.cumsum(weights) - true).max() / len(values))


@pytest.mark.parametrize("order", ["random", "ascending", "descending"])
def test_the_sketch_keeps_its_promise_on_ranks(order: str) -> None:
    values = np.exp(np.random.default_rng(0).standard_normal(1_000_000))
    if order != "random":
        values = np.sort(values)[:: 1 if order == "ascending" else -1]
    sketch = QuantileSketch()
    for part in np.array_split(values, 7):
        sketch.add(part)
    assert rank_error(sketch, values) <= math.log2(len(values) / 4096) / 8192
    assert len(sketch.weighted()[0]) <= 4096 * 10


def test_the_sketch_is_exact_while_it_can_be_and_the_same_however_values_come() -> None:
    values = np.random.default_rng(0).standard_normal(30_000)
    sketches = [QuantileSketch() for _ in range(3)]
    sketches[0].add(values[:8191])
    assert rank_error(sketches[0], values[:8191]) == 0
    sketches[1].add(values)
    for part in np.array_split(values, 500):
        sketches[2].add(part)
    assert np.array_equal(sketches[1].weighted()[0], sketches[2].weighted()[0])
    assert sketches[1].weighted()[1].sum() == len(values)


def test_a_reference_counts_every_row_though_its_edges_come_from_a_sketch() -> None:
    values = np.random.default_rng(0).standard_normal(200_000)
    counts = profile_columns({"x": values}).features["x"].counts
    assert counts.sum() == len(values)
    assert counts.max() / len(values) < 0.012


def test_the_most_frequent_levels_are_counted_one_by_one_and_the_rest_together() -> None:
    names = np.array([f"level {number}" for number in range(300) for _ in range(300 - number)], object)
    found = categorical(profile_columns({"x": names}))
    assert len(found.levels) == 100
    assert found.levels[0] == "level 0"
    assert found.counts[0] == 300
    assert found.rest == len(names) - found.counts.sum()
    assert (found.unseen, found.once) == (0, 1)


def test_equally_frequent_levels_are_ordered_by_name() -> None:
    assert categorical(profile_columns({"x": np.array(list("cabbac") * 10)})).levels == ("a", "b", "c")


def test_new_levels_are_told_from_rare_ones() -> None:
    reference = profile_columns({"x": np.array([f"level {number}" for number in range(400)] * 2)})
    window = categorical(profile_columns({"x": np.array(["level 399", "level 3", "new", "newer", "newest"] * 10)}, reference))
    assert window.unseen == 30
    assert window.rest + window.counts.sum() == 20


def test_new_levels_are_not_told_apart_where_the_known_are_too_many() -> None:
    reference = profile_columns({"x": np.array([f"level {number}" for number in range(3000)])}, categorical="x")
    assert categorical(reference).known is None
    window = categorical(profile_columns({"x": np.array(["new"] * 10)}, reference))
    assert (window.unseen, window.rest) == (0, 10)


def test_few_of_the_new_levels_are_taken_for_known() -> None:
    reference = profile_columns({"x": np.array([f"level {number}" for number in range(500)])}, categorical="x")
    window = categorical(profile_columns({"x": np.array([f"new {number}" for number in range(5000)], object)}, reference))
    assert window.unseen / 5000 > 0.95


def test_more_levels_than_can_be_held_leave_the_frequent_ones() -> None:
    found = Frequencies()
    for start in range(0, 50_000, 5000):
        found.add({**{f"rare {number}": 1 for number in range(start, start + 5000)}, "often": 50})
    assert not found.exact
    assert "often" in found.counts()
    assert len(found.counts()) <= HELD


def test_buckets_count_every_value_by_a_hash_that_never_changes() -> None:
    reference = profile_columns({"x": np.array(list("aab") * 10)})
    window = categorical(profile_columns({"x": np.array(["a", "new", None, "new"], object)}, reference))
    expected = np.zeros(BUCKETS, np.int64)
    np.add.at(expected, [bucket_of("a"), bucket_of("new"), bucket_of("new")], 1)
    assert window.buckets.tolist() == expected.tolist()
    assert (bucket_of("a"), bucket_of("17")) == (0, 32)


def test_long_names_are_cut_and_stay_apart() -> None:
    one, other = (level_name("x" * 500 + end) for end in "ab")
    assert one != other
    assert len(one) <= LONGEST_NAME
    assert [level_name(value) for value in (3, 3.0, True, b"raw", 2.5, "3")] == ["3", "3", "true", "raw", "2.5", "3"]


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (np.arange(100) % 7, "categorical"),
        (np.arange(100) % 50, "numeric"),
        (np.arange(10) % 7, "numeric"),
        (np.arange(100.0) % 7, "numeric"),
        (np.arange(100) % 2 == 0, "categorical"),
        (np.array(["a", None], object), "categorical"),
        (np.array([1, None, 2.5], object), "numeric"),
        (np.arange("2026-01", "2026-09", dtype="datetime64[D]"), "numeric"),
        (np.zeros((10, 3)), "vector"),
    ],
)
def test_what_a_column_is_follows_from_its_type(column: np.ndarray, kind: str) -> None:
    assert profile_columns({"x": column}).features["x"].kind == kind


def test_what_a_column_is_can_be_said() -> None:
    ages = np.random.default_rng(0).integers(18, 90, 1000)
    found = categorical(profile_columns({"x": ages}, categorical=["x"]))
    assert found.counts.sum() == 1000
    with pytest.raises(ProfileError, match=r"no column 'agee'\. Did you mean 'age'\?"):
        profile_columns({"age": ages}, categorical=["agee"])


def test_a_window_keeps_to_what_the_reference_says_of_a_column() -> None:
    reference = profile_columns({"x": np.arange(100) % 7, "y": np.arange(100.0)})
    window = profile_columns({"x": np.array([3.0, np.nan, 6.0]), "y": np.array(["1.5", "none", None], object)}, reference)
    assert dict(zip(categorical(reference).levels, categorical(window).counts.tolist(), strict=True))["3"] == 1
    assert categorical(window).missing == 1
    assert (window.features["y"].finite, window.features["y"].nan) == (1, 2)


def test_dates_are_the_same_in_any_unit() -> None:
    days = np.arange("2026-01-01", "2026-07-01", dtype="datetime64[D]")
    reference = profile_columns({"x": days})
    window = profile_columns({"x": np.append(days.astype("datetime64[ns]"), np.datetime64("NaT"))}, reference)
    assert window.features["x"].counts.tolist() == reference.features["x"].counts.tolist()
    assert window.features["x"].nan == 1


def test_one_row_is_enough() -> None:
    reference = profile_columns({"x": np.array([3.0]), "k": np.array(["a"]), "v": np.ones((1, 4))})
    assert reference.n == 1
    assert (
        profile_columns({"x": np.array([3.0]), "k": np.array(["b"]), "v": np.ones((1, 4))}, reference).features["k"].unseen == 1
    )


def test_an_empty_window_counts_nothing() -> None:
    reference = profile_columns({"x": np.arange(10.0), "k": np.array(list("ab") * 5)})
    for empty in ({"x": np.empty(0), "k": np.empty(0, object)}, []):
        window = compute_dataset_profile(empty, reference=reference)
        assert (window.n, window.features["x"].n, window.edges_id) == (0, 0, reference.edges_id)


def test_an_empty_reference_is_refused() -> None:
    for empty in ({"x": np.empty(0)}, []):
        with pytest.raises(ProfileError, match="no rows: a reference needs one at least"):
            compute_dataset_profile(empty)


def test_rows_that_can_be_read_once_make_a_reference_while_they_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).standard_normal(10_000)
    parts = [{"x": part} for part in np.array_split(values, 10)]
    assert compute_dataset_profile(iter(parts)) == compute_dataset_profile(parts) == profile_columns({"x": values})
    monkeypatch.setattr("harness.monitoring.profiles.sources._HELD", 1000)
    assert compute_dataset_profile(parts) == profile_columns({"x": values})
    with pytest.raises(ProfileError, match="these can be read only once"):
        compute_dataset_profile(iter(parts))
