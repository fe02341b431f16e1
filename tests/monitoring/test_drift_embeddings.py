"""Embeddings and softmax outputs, compared while their rows are at hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.evidence import Status
from harness.monitoring.drift import (
    DriftReport,
    compare_embeddings,
    compare_profiles,
    compare_softmax,
    judge_differences,
    most_shifted,
)
from harness.monitoring.drift.embeddings import MOST_ROWS
from harness.monitoring.profiles import profile_columns

DRAWS = 499


def vectors(seed: int, rows: int, move: float = 0.0, spread: float = 1.0) -> NDArray[np.float64]:
    return np.random.default_rng([seed, rows]).normal(move, spread, (rows, 8))


def verdict_on(reference: NDArray[np.float64], current: NDArray[np.float64]) -> DriftReport:
    differences = compare_embeddings(reference, current, draws=DRAWS)
    return judge_differences(differences, reference_n=len(reference), current_n=len(current))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_embeddings_of_one_distribution_show_no_drift(seed: int) -> None:
    report = verdict_on(vectors(0, 200), vectors(seed, 150))
    assert report.names(Status.FAIL) == report.names(Status.WARN) == []


@pytest.mark.parametrize(("move", "spread"), [(0.5, 1.0), (0.0, 1.6)])
def test_embeddings_that_move_or_spread_fail(move: float, spread: float) -> None:
    report = verdict_on(vectors(0, 200), vectors(1, 150, move, spread))
    assert report.names(Status.FAIL) == ["embedding"]
    assert report["embedding"].message.startswith("`embedding` has drifted: AUC = 0.")
    assert report["embedding"].verdicts[0].difference.test == "MMD"


def test_a_cluster_that_appears_is_seen_though_the_mean_stays() -> None:
    rows = vectors(1, 200)
    rows[:20, 0] += 6
    rows[20:40, 0] -= 6
    assert verdict_on(vectors(0, 200), rows).status is Status.FAIL


def test_too_few_rows_cannot_be_told_apart() -> None:
    report = verdict_on(vectors(0, 200), vectors(1, 6, move=3.0))
    assert report.status is Status.WARN
    assert "cannot tell about `embedding`" in report.message
    assert "too few rows to compare" in report["embedding"].message
    assert verdict_on(vectors(0, 200), np.zeros((0, 8))).message.startswith("cannot tell: the window is empty")


def test_vectors_that_are_all_alike_are_no_drift() -> None:
    report = verdict_on(np.ones((900, 8)), np.ones((800, 8)))
    assert report["embedding"].message.startswith("no drift seen in `embedding`: all values are alike")


def test_vectors_that_are_not_finite_are_compared_by_themselves() -> None:
    broken = vectors(1, 150)
    broken[:60, 3] = np.nan
    report = verdict_on(vectors(0, 200), broken)
    assert report.status is Status.FAIL
    assert "missing values of `embedding` have drifted" in report["embedding"].message
    assert "values that are not finite went from 0.0% to 40.0%" in report["embedding"].message


def test_no_more_rows_than_asked_for_are_compared() -> None:
    difference = compare_embeddings(vectors(0, 3 * MOST_ROWS), vectors(1, 80), draws=19, most_rows=60)[0]
    assert (difference.reference_n, difference.current_n) == (60, 60)


def test_permutations_can_reach_significance_among_many_tests() -> None:
    report = judge_differences(
        compare_embeddings(vectors(0, 80), vectors(1, 80, move=1.0)), reference_n=80, current_n=80, alpha=0.05 / 400
    )
    assert report.status is Status.FAIL


def test_embeddings_are_judged_together_with_profiles() -> None:
    rng = np.random.default_rng(0)
    reference = profile_columns({"x": rng.normal(size=2_000)})
    window = profile_columns({"x": rng.normal(size=1_000)}, reference)
    differences = compare_embeddings(vectors(0, 200), vectors(1, 150, 0.5), draws=DRAWS)
    report = compare_profiles(reference, window, more=differences)
    assert report.names(Status.FAIL) == ["embedding"]
    assert report.tests == 2
    assert "adjusted for 2 tests" in report["embedding"].message


def test_the_rows_most_unlike_the_reference_are_those_that_were_moved() -> None:
    rows = vectors(1, 200)
    moved = [3, 50, 51, 120, 199, 7, 77, 10, 140, 31]
    rows[moved] += 4
    assert {*most_shifted(vectors(0, 200), rows, 10).tolist()} == {*moved}
    assert most_shifted(vectors(0, 200), rows[:4]).size == 0


def probabilities(seed: int, rows: int, favour: float = 1.0) -> NDArray[np.float64]:
    return np.random.default_rng([seed, rows]).dirichlet([2.0 * favour, 2.0, 2.0, 2.0], rows)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_softmax_outputs_of_one_distribution_show_no_drift(seed: int) -> None:
    report = judge_differences(compare_softmax(probabilities(0, 600), probabilities(seed, 500)), reference_n=600, current_n=500)
    assert report.status is Status.OK, report.message


def test_a_shift_of_labels_shows_on_the_softmax_outputs() -> None:
    differences = compare_softmax(probabilities(0, 600), probabilities(1, 500, favour=2.5), classes=["cat", "dog", "cow", "hen"])
    report = judge_differences(differences, reference_n=600, current_n=500)
    assert {"output.class", "output.probability.cat"} <= {*report.names(Status.FAIL)}
    assert "'cat' went from " in report["output.class"].message


def test_softmax_outputs_with_nan_are_told() -> None:
    broken = probabilities(1, 500)
    broken[:100] = np.nan
    report = judge_differences(compare_softmax(probabilities(0, 600), broken), reference_n=600, current_n=500)
    assert report.names(Status.FAIL) == ["output.class"]
    assert "missing values of `output.class` have drifted" in report["output.class"].message
