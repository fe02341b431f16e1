"""Accuracy estimated without labels, compared with the true one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from harness.errors import DataError
from harness.monitoring.accuracy_estimate import (
    AccuracyEstimator,
    AnsweredRows,
    RowMeasures,
    confidence_measures,
    fit_estimator,
)
from harness.monitoring.familiarity import Familiarity, fit_familiarity
from harness.monitoring.simulated_shifts import ShiftSimulation
from harness.monitoring.verdict import ImpactFinding, PerformanceImpact
from harness.tasks import TaskSpec, TaskType

Array = NDArray[Any]
TABLE = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=4, num_classes=3)
IMAGES = TaskSpec(TaskType.IMAGE_CLASSIFICATION, image_size=(1, 8, 8), num_classes=2)
TEXTS = TaskSpec(TaskType.SEQUENCE_CLASSIFICATION, vocab_size=50, max_seq_len=12, num_classes=2)


class World:
    """Three classes in four numbers, and a model that draws straight borders between them."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.centres = self.rng.normal(size=(3, 4)) * 1.5
        rows, labels = self.drawn(500)
        self.near = fit_familiarity(rows, labels)
        known, truth = self.drawn(1000)
        self.near = self.near.beside(self.measured(known), truth)
        simulated = ShiftSimulation(examples(known, truth), TABLE).windows()
        shifted = [self.answered(*as_arrays(part), kind) for kind, part in simulated]
        reference = self.answered(known, truth)
        self.estimator = fit_estimator(reference, shifted)
        self.without_centring = fit_estimator(*_first_three(reference, shifted))

    def drawn(self, n: int) -> tuple[Array, Array]:
        labels = self.rng.integers(3, size=n)
        return self.centres[labels] + self.rng.normal(size=(n, 4)), labels

    def said(self, rows: Array) -> Array:
        return (np.nan_to_num(rows) @ self.centres.T - (self.centres**2).sum(1) / 2).argmax(1)

    def measured(self, rows: Array) -> RowMeasures:
        return self.near.of_window([(rows, self.said(rows))], rows)

    def answered(self, rows: Array, labels: Array, kind: str = "") -> AnsweredRows:
        found = self.measured(rows)
        return AnsweredRows(found.values, (self.said(rows) == labels).astype(float), kind, found.at_most)


def _first_three(reference: AnsweredRows, shifted: list[AnsweredRows]) -> tuple[AnsweredRows, list[AnsweredRows]]:
    found = [replace(each, measures=each.measures[:, :3]) for each in (reference, *shifted)]
    return found[0], found[1:]


def examples(rows: Array, labels: Array) -> list[dict[str, torch.Tensor]]:
    return [
        {"features": torch.from_numpy(row).float(), "labels": torch.tensor(int(label))}
        for row, label in zip(rows, labels, strict=True)
    ]


def as_arrays(part: list[dict[str, torch.Tensor]]) -> tuple[Array, Array]:
    return np.stack([row["features"].numpy() for row in part]), np.array([int(row["labels"]) for row in part])


def turned(rng: np.random.Generator, rows: Array) -> Array:
    share = rng.uniform(0.1, 0.8)
    return (1 - share) * rows + share * np.roll(rows, 1, axis=1)


def scaled(rng: np.random.Generator, rows: Array) -> Array:
    return rows * rng.uniform(0.2, 2.5)


def clipped(rng: np.random.Generator, rows: Array) -> Array:
    most = rng.uniform(0.3, 2)
    return rows.clip(-most, most)


@pytest.fixture(scope="module")
def worlds() -> list[World]:
    return [World(seed) for seed in range(3)]


NOT_SIMULATED: list[Callable[[np.random.Generator, Array], Array]] = [turned, scaled, clipped]


def test_estimates_are_near_and_their_intervals_hold_on_shifts_of_kinds_that_were_not_simulated(worlds: list[World]) -> None:
    errors, held = [], []
    for world in worlds:
        for shift in NOT_SIMULATED:
            for _ in range(5):
                rows, labels = world.drawn(500)
                window = world.answered(shift(world.rng, rows), labels)
                estimate, true = world.estimator.estimate(window.measures, window.at_most), float(window.correct.mean())
                errors.append(abs(estimate.accuracy - true))
                held.append(estimate.interval[0] <= true <= estimate.interval[1])
    assert len(held) == 45
    assert np.mean(held) >= 0.85
    assert np.mean(errors) <= 0.12


def test_a_window_that_moved_as_a_whole_is_centred_before_it_is_measured(worlds: list[World]) -> None:
    errors = []
    for world in worlds:
        for moved in (-2.5, 2.5):
            rows, labels = world.drawn(500)
            window = world.answered(rows + moved, labels)
            assert window.measures[:, 5].max() < -0.5, "the rows are farther from the training rows than those of the reference"
            found = world.estimator.estimate(window.measures), world.without_centring.estimate(window.measures[:, :3])
            errors.append([abs(one.accuracy - window.correct.mean()) for one in found])
    centred, plain = np.mean(errors, axis=0)
    assert centred < 0.12
    assert centred < 0.8 * plain


def test_rows_of_a_part_of_the_reference_are_not_centred(worlds: list[World]) -> None:
    world = worlds[0]
    rows, labels = world.drawn(2000)
    part = rows[labels == 1]
    found = world.measured(part)
    assert found.at_most == 1
    assert found.values[:, 3:5] == pytest.approx(world.near.measures(part, world.said(part))[:, :2])
    assert not found.values[:, 5].any()


def test_where_a_number_is_stuck_no_more_answers_are_right_than_the_classes_allow(worlds: list[World]) -> None:
    """The interval still reaches to what the rows say, as a part of the data may have one value too."""
    world = worlds[0]
    rows, labels = world.drawn(600)
    stuck = rows.copy()
    stuck[:, 0] = 5.0
    window = world.answered(stuck, labels)
    said = np.bincount(world.said(stuck), minlength=3) / 600
    assert window.at_most == pytest.approx(np.minimum(said, world.near.shares).sum())
    plain, capped = (world.estimator.estimate(window.measures, most) for most in (1.0, 0.02))
    assert (capped.accuracy, capped.interval[1], capped.loss_interval[0]) == (0.02, plain.interval[1], plain.loss_interval[0])
    assert PerformanceImpact(capped, 0.05).finding is not ImpactFinding.WORSE or plain.loss_interval[0] > 0.05
    assert world.measured(np.repeat(stuck[:3], 50, axis=0)).at_most == 1, "these are three rows, and not a number that is stuck"
    assert world.measured(stuck[:5]).at_most == 1


def test_of_windows_like_the_reference_no_loss_is_alleged_and_intervals_are_narrow(worlds: list[World]) -> None:
    found, widths = [], []
    for world in worlds:
        for _ in range(10):
            window = world.answered(*world.drawn(1000))
            estimate = world.estimator.estimate(window.measures)
            assert estimate.accuracy == pytest.approx(window.correct.mean(), abs=0.05)
            widths.append(estimate.interval[1] - estimate.interval[0])
            found.append(PerformanceImpact(estimate, 0.05).finding)
    assert np.median(widths) < 0.08
    assert found.count(ImpactFinding.NOT_WORSE) >= 0.9 * len(found)
    assert ImpactFinding.WORSE not in found


def test_an_estimate_says_whether_its_error_was_measured(worlds: list[World]) -> None:
    world = worlds[0]
    plain = fit_estimator(world.answered(*world.drawn(1000)))
    rows, labels = world.drawn(1000)
    window = world.answered(rows * 1.5, labels).measures
    unchecked, checked = plain.estimate(window), world.estimator.estimate(window)
    assert (unchecked.checked_on, checked.checked_on) == (0, 8)
    assert "its error could not be measured" in PerformanceImpact(unchecked, 0.05).message
    assert f"measured on {checked.checked_on} kinds of simulated shifts" in PerformanceImpact(checked, 0.05).message


def test_what_is_stored_is_the_same_after_a_way_through_json(worlds: list[World]) -> None:
    world = worlds[0]
    window = world.answered(*world.drawn(300))
    text = json.dumps(world.estimator.to_json(), allow_nan=False)
    assert len(text) < 10_000
    assert AccuracyEstimator.from_json(json.loads(text)).estimate(window.measures) == world.estimator.estimate(window.measures)
    near = Familiarity.from_json(json.loads(json.dumps(world.near.to_json(), allow_nan=False)))
    rows, _ = world.drawn(50)
    parts = [(rows, world.said(rows))]
    assert near.of_window(parts, rows).values == pytest.approx(world.near.of_window(parts, rows).values, abs=0.02)


@pytest.mark.parametrize("stored", [None, {}, [], "text", {"accuracy": 0.9}, {"accuracy": 0.9, "n": 3, "reach": 0, "cut": 1}])
def test_what_another_version_stored_is_refused(stored: Any) -> None:
    with pytest.raises(DataError, match="store the reference again"):
        AccuracyEstimator.from_json(stored)
    with pytest.raises(DataError, match="store the reference again"):
        Familiarity.from_json(stored)


def test_by_confidence_alone_surer_windows_are_more_often_right() -> None:
    rng = np.random.default_rng(0)
    entropy = rng.uniform(0, 1, 2000)
    right = (rng.random(2000) > entropy / 2).astype(float)
    estimator = fit_estimator(AnsweredRows(confidence_measures(entropy), right))
    found = [estimator.estimate(confidence_measures(entropy * share)).accuracy for share in (1.0, 0.5, 0.1)]
    assert found[0] == pytest.approx(right.mean(), abs=1e-4)
    assert found == sorted(found)


def test_an_answer_of_nan_is_wrong() -> None:
    estimator = fit_estimator(AnsweredRows(confidence_measures([0.1, 0.2, np.nan, 0.3]), np.array([1.0, 1, 0, 1])))
    assert estimator.probabilities(confidence_measures([np.nan, 0.1])).tolist()[0] == 0
    assert estimator.estimate(confidence_measures([np.nan] * 5)).accuracy < 0.1


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_where_all_answers_are_alike_the_interval_still_leaves_room(right: float) -> None:
    measures = confidence_measures(np.linspace(0, 1, 20))
    estimate = fit_estimator(AnsweredRows(measures, np.full(20, right))).estimate(measures)
    low, high = estimate.loss_interval
    assert estimate.accuracy == pytest.approx(right)
    assert high - low > 0.1


def test_an_empty_window_says_nothing() -> None:
    estimator = fit_estimator(AnsweredRows(confidence_measures([0.1, 0.6]), np.array([1.0, 0.0])))
    estimate = estimator.estimate(np.zeros((0, 2)))
    assert (estimate.n, estimate.interval, estimate.loss, estimate.loss_interval) == (0, (0.0, 1.0), 0.0, (-0.5, 0.5))
    with pytest.raises(DataError, match="2 measures a row"):
        estimator.estimate([1.0, 2.0])


@pytest.mark.parametrize(
    ("entropy", "correct", "complaint"),
    [
        ([], [], "at least one labelled row"),
        ([0.1, 0.2], [np.nan, np.nan], "at least one labelled row"),
        ([0.1, 0.2], [1], r"got shapes \[2, 2\] and \[1\]"),
        ([0.1, 0.2], [1, 2], "0 or 1"),
    ],
)
def test_bad_outcomes_are_refused_in_one_sentence(entropy: list[float], correct: list[float], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        fit_estimator(AnsweredRows(confidence_measures(entropy), np.array(correct, float)))


def test_missing_numbers_count_as_the_mean_and_a_class_never_seen_is_far() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 3))
    labels = (rows[:, 0] > 0).astype(int)
    near = fit_familiarity(rows, labels)
    found = near.measures([[np.nan, 0, 0], [np.inf, 0, 0]], [1, 1])
    assert np.isfinite(found).all()
    assert found[0, 2] == pytest.approx(2 / 3)
    assert near.measures(rows[:5], [2] * 5)[:, 1].max() < near.measures(rows[:5], labels[:5])[:, 1].min()
    assert near.measures(np.zeros((0, 3)), []).shape == (0, 3)
    with pytest.raises(DataError, match="vectors of 3 numbers"):
        near.measures(np.ones((2, 2)), [0, 1])
    with pytest.raises(DataError, match="a label for each"):
        fit_familiarity(np.ones((4, 2)), [0, 1])


def test_a_table_is_shifted_in_each_way_and_its_labels_stay() -> None:
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(50, 4)), rng.integers(3, size=50)
    found = list(ShiftSimulation(examples(rows, labels), TABLE).windows())
    assert {"noise", "missing values", "shuffled columns", "another unit"} <= {kind for kind, _ in found}
    for kind, part in found:
        shifted, of_them = as_arrays(part)
        assert shifted.shape == (50, 4)
        assert sorted(of_them) == sorted(labels)
        assert kind == "missing values" or np.isfinite(shifted).all()
        assert not {tuple(row) for row in shifted.tolist()} <= {tuple(row) for row in rows.astype(np.float32).tolist()}


def test_images_are_moved_and_texts_lose_their_words() -> None:
    rng = np.random.default_rng(0)
    images = [{"pixel_values": torch.from_numpy(rng.random((1, 8, 8))).float(), "labels": torch.tensor(0)} for _ in range(10)]
    kinds = {kind for kind, _ in ShiftSimulation(images, IMAGES).windows()}
    assert {"moved images", "turned images"} <= kinds
    assert "missing values" not in kinds
    texts = [{"input_ids": torch.arange(size), "labels": torch.tensor(1)} for size in (3, 12, 7, 5)]
    windows = dict(ShiftSimulation(texts, TEXTS).windows())
    assert set(windows) == {"other ids", "another order"}
    assert sorted(len(row["input_ids"]) for row in windows["other ids"]) == [3, 5, 7, 12]
    assert list(ShiftSimulation([], TEXTS).windows()) == []
