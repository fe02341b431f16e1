"""The threshold on confidence: what counts as right on the reference, and what is stored of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import DataError
from harness.experiments.database import ExperimentDB
from harness.monitoring.accuracy_estimate import (
    ConfidenceThreshold,
    estimate_accuracy,
    fit_threshold,
    negative_entropy,
)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.37, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("distinct", [1, 2, 7, 1000])
def test_the_reference_itself_is_estimated_exactly_whatever_the_ties(share: float, distinct: int) -> None:
    generator = np.random.default_rng(3)
    scores = generator.integers(distinct, size=500).astype(float)
    correct = generator.random(500) < share
    assert estimate_accuracy(fit_threshold(scores, correct), scores).accuracy == pytest.approx(correct.mean(), abs=1e-12)


def test_more_confident_windows_are_more_often_right() -> None:
    generator = np.random.default_rng(0)
    scores = generator.normal(size=1000)
    threshold = fit_threshold(scores, scores + generator.normal(size=1000) > 0)
    estimates = [estimate_accuracy(threshold, scores + shift).accuracy for shift in (-9, -1, 0, 1, 9)]
    assert estimates == sorted(estimates)
    assert (estimates[0], estimates[-1]) == (0.0, 1.0)


def test_a_model_that_says_nan_is_sure_of_nothing() -> None:
    threshold = fit_threshold([3.0, 2.0, 1.0, np.nan], [1, 1, 1, 0])
    assert estimate_accuracy(threshold, [np.nan] * 5).accuracy == 0
    assert estimate_accuracy(threshold, [np.inf, 2.5, np.nan, -np.inf]).accuracy == 0.5


def test_a_reference_of_nan_alone_still_gives_its_accuracy() -> None:
    threshold = fit_threshold([np.nan] * 10, [1] * 7 + [0] * 3)
    assert estimate_accuracy(threshold, [np.nan] * 3).accuracy == pytest.approx(0.7)


def test_rows_without_a_label_are_left_out() -> None:
    assert fit_threshold([3, 2, 1, 5, 0], [1, 1, 0, np.nan, np.nan]) == fit_threshold([3, 2, 1], [1, 1, 0])


@pytest.mark.parametrize("right", [0, 1])
def test_where_all_answers_are_alike_the_interval_still_leaves_room(right: int) -> None:
    scores = np.linspace(-1, 0, 20)
    estimate = estimate_accuracy(fit_threshold(scores, [right] * 20), scores)
    low, high = estimate.loss_interval
    assert estimate.accuracy == right
    assert low < 0 < high
    assert high - low > 0.1


def test_what_is_stored_is_small_and_the_same_after_a_way_through_json() -> None:
    generator = np.random.default_rng(1)
    threshold = fit_threshold(generator.normal(size=5000), generator.random(5000) < 0.9)
    text = json.dumps(threshold.to_json(), allow_nan=False)
    assert len(text) < 500
    assert ConfidenceThreshold.from_json(json.loads(text)) == threshold


def test_a_threshold_is_kept_by_the_run_of_its_reference(tmp_path: Path) -> None:
    threshold = fit_threshold([0.9, 0.8, 0.3, 0.2], [1, 1, 0, 1])
    db = ExperimentDB(tmp_path / "experiments.db")
    with db.start_run("reference") as run:
        db.log_profile(run.id, threshold, "confidence")
    assert ConfidenceThreshold.from_json(db.get_profile("reference", "confidence")) == threshold


@pytest.mark.parametrize("stored", [None, {}, [], "text", {"accuracy": 0.9}, {"accuracy": "much", "n": 3, "reach": 0, "cut": 1}])
def test_something_else_that_was_stored_is_refused(stored: Any) -> None:
    with pytest.raises(DataError, match="confidence threshold"):
        ConfidenceThreshold.from_json(stored)


@pytest.mark.parametrize(
    ("scores", "correct", "complaint"),
    [
        ([], [], "at least one labelled row"),
        ([0.1, 0.2], [np.nan, np.nan], "at least one labelled row"),
        ([0.1, 0.2], [1], r"got shapes \[2\] and \[1\]"),
        ([0.1, 0.2], [[1], [0]], "got shapes"),
        ([[0.1, 0.2]], [1, 0], r"one score a row, got scores of shape \[1, 2\]"),
        ([0.1, 0.2], [1, 2], "0 or 1"),
        ([0.1, 0.2], [1, np.inf], "0 or 1"),
        ([0.1, 0.2], ["yes", "no"], "0 or 1"),
        (["sure", "unsure"], [1, 0], "numbers"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(scores: Any, correct: Any, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        fit_threshold(scores, correct)


def test_entropy_is_nothing_where_a_model_is_certain_and_log_c_where_it_knows_nothing() -> None:
    scores = negative_entropy(np.array([[1, 0, 0, 0], [0.25, 0.25, 0.25, 0.25], [np.nan, 1, 0, 0]]))
    assert scores[:2] == pytest.approx([0, -np.log(4)])
    assert np.isnan(scores[2])
