"""Parts of the data: how columns cut them; against a threshold, and against the reference's; rates of false warnings, few rows, groups."""

from __future__ import annotations

import numpy as np
import pytest

from harness.monitoring.slices import Cut, Parts, SliceVerdict, right_by_slice, slices_that_lost


def test_parts_at_the_threshold_are_rarely_called_below_it() -> None:
    """The threshold is the true accuracy of every part; the binomial test is exact, so alpha holds for all ten together."""
    random = np.random.default_rng(0)
    labels = {"country": np.repeat(np.arange(10), 60)}
    called = sum(bool(SliceVerdict.of((random.random(600) < 0.8).astype(float), labels, 0.8).below) for _ in range(200))
    assert called <= 18, "the 99% bound of 200 repeats at 0.05"


def test_the_worst_part_is_named_and_others_counted() -> None:
    correct = np.ones(300)
    correct[:80], correct[100:150] = 0, 0
    found = SliceVerdict.of(correct, {"plan": np.repeat(["a", "b", "c"], 100)}, 0.9)
    assert [one.name for one in found.below] == ["plan=a", "plan=b"]
    assert found.message.startswith(
        "in plan=a accuracy is 20.0% on 100 rows, surely below the threshold 0.9 (p < 0.0001 adjusted for 3"
    )
    assert found.message.endswith(", and in 1 other slice")


def test_parts_of_few_independent_rows_are_left_out() -> None:
    correct = np.zeros(200)
    correct[150:] = np.nan
    labels = {"day": np.repeat(["monday", "tuesday"], 100)}
    assert [one.rows for one in SliceVerdict.of(correct, labels, 0.9).slices] == [100, 50]
    one_a_session = np.arange(0, 200, 10)
    found = SliceVerdict.of(correct, labels, 0.9, one_a_session)
    assert (found.slices, found.left_out, found.message) == ((), 2, "")


@pytest.mark.parametrize(
    ("reference", "window", "labels"),
    [
        (["fr", "de", "", None], ["fr", "it", None], ["fr", "(others)", "(empty)"]),
        ([1, 2.0, 3], [1.0, 4, float("nan")], ["1", "(others)", "(empty)"]),
        (np.arange(100.0), [-5, 25, 30.5, 1e6, "n/a"], ["up to 25", "up to 25", "25 to 50", "above 75", "(empty)"]),
        ([f"user{number % 30}" for number in range(100)], ["user3", "user29"], ["user3", "(others)"]),
    ],
)
def test_a_window_is_cut_as_its_reference_was(reference: list[object], window: list[object], labels: list[str]) -> None:
    assert Cut.of(list(reference)).labels(window).tolist() == labels


def parted(columns: dict[str, list[object]], cuts: dict[str, Cut] | None = None) -> Parts:
    own = cuts or {name: Cut.of(column) for name, column in columns.items()}
    return Parts({name: own[name].labels(column) for name, column in columns.items()}, own)


def drawn(random: np.random.Generator, n: int, worse: float) -> tuple[dict[str, list[object]], np.ndarray]:
    """Three columns, and answers of which 90% are right; where `x` is high and `place` is b, less by so much."""
    x, place = random.normal(size=n), random.choice(list("abc"), n)
    accuracy = np.where((x > 0.7) & (place == "b"), 0.9 - worse, 0.9)
    columns = {"x": x.tolist(), "y": random.normal(size=n).tolist(), "place": place.tolist()}
    return columns, (random.random(n) < accuracy).astype(float)


def lost(seed: int, worse: float) -> list[str]:
    random = np.random.default_rng(seed)
    before, right_before = drawn(random, 2000, 0.0)
    now, right = drawn(random, 1000, worse)
    reference = parted(before)
    found = slices_that_lost(
        right_by_slice(reference, right_before), right_by_slice(parted(now, dict(reference.cuts)), right), margin=0.05
    )
    return [one.name for one in found]


def test_parts_found_by_themselves_are_rarely_named_where_nothing_was_lost() -> None:
    """11 parts and their 40 pairs; the tests are exact, so alpha holds for all together. More in `benchmarks/drift_false_alarms.py --slices`."""
    assert sum(bool(lost(seed, 0.0)) for seed in range(25)) <= 4, "the 99% bound of 25 repeats at 0.05"


def test_a_part_of_two_columns_that_lost_is_found() -> None:
    found = lost(7, 0.6)
    assert found[0].startswith("x=above 0.")
    assert found[0].endswith(" and place=b")


def test_many_parts_are_not_paired() -> None:
    random = np.random.default_rng(0)
    columns: dict[str, list[object]] = {f"x{number}": random.normal(size=400).tolist() for number in range(20)}
    assert len(right_by_slice(parted(columns), np.ones(400))) == 80
