"""Parts of the data against a threshold: the rate of false warnings over all parts, few rows, dependent rows."""

from __future__ import annotations

import numpy as np

from harness.monitoring.slices import SliceVerdict


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
