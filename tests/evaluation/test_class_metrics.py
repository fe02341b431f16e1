"""Metrics of one class a row."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from judging import classes_task, cross_entropy, echo_rows, judge, random_logits
from sklearn.metrics import f1_score, roc_auc_score
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_calibration_error

from harness.batches import IGNORED
from harness.evaluation.answers import answers_of
from harness.evaluation.metrics.classification import RocArea, half_order, log_odds


def area_of(logits: Tensor, labels: Tensor) -> float:
    """Mean of the areas of each class against the rest."""
    scores = logits.double()
    others = [torch.cat([scores[:, :c], scores[:, c + 1 :]], 1).logsumexp(1) for c in range(logits.shape[1])]
    return float(np.mean([roc_auc_score(labels == c, scores[:, c] - rest) for c, rest in enumerate(others)]))


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_metrics_are_those_of_others(classes: int) -> None:
    logits, labels = random_logits(200, classes)
    summary = judge(classes_task(classes), echo_rows(logits, labels), batch_size=32).summary
    predicted = logits.argmax(1)
    assert list(summary) == ["loss", "accuracy", "f1", "calibration_error", "roc_auc"]
    assert summary["loss"] == pytest.approx(cross_entropy(logits, labels).mean(), rel=1e-6)
    assert summary["accuracy"] == pytest.approx((predicted == labels).double().mean().item())
    assert summary["f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert summary["calibration_error"] == pytest.approx(
        multiclass_calibration_error(logits, labels, classes, n_bins=15, norm="l1").item(), abs=1e-6
    )
    assert summary["roc_auc"] == pytest.approx(area_of(logits, labels), abs=1e-9)


def test_each_sample_has_a_loss_and_is_right_or_wrong() -> None:
    logits, labels = random_logits(10, 3)
    scores = judge(classes_task(3), echo_rows(logits, labels)).scores
    assert scores["loss"] == pytest.approx(cross_entropy(logits, labels), rel=1e-5)
    assert scores["correct"].tolist() == (logits.argmax(1) == labels).double().tolist()


def test_a_row_without_a_label_counts_nowhere() -> None:
    logits, labels = random_logits(10, 3)
    labels[[0, 4]] = IGNORED
    labels[5:8] = torch.arange(3)
    kept = labels != IGNORED
    with_them = judge(classes_task(3), echo_rows(logits, labels))
    without = judge(classes_task(3), echo_rows(logits[kept], labels[kept]))
    assert with_them.summary == pytest.approx(without.summary)
    assert with_them.examples == 10
    for name, scores in with_them.scores.items():
        assert np.isnan(scores[~kept.numpy()]).all()
        assert scores[kept.numpy()] == pytest.approx(without.scores[name])


@pytest.mark.parametrize("classes", [2, 3])
def test_where_a_class_is_absent_there_is_no_area_and_no_warning(classes: int) -> None:
    logits, labels = random_logits(20, classes)
    rows = echo_rows(logits, labels.clamp(max=classes - 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary = judge(classes_task(classes, metrics=("roc_auc", "accuracy")), rows).summary
    assert list(summary) == ["loss", "accuracy"]


def test_a_class_that_never_occurs_does_not_count_in_f1() -> None:
    logits = torch.tensor([[5.0, 0, 0, 0], [5, 0, 0, 0], [0, 5, 0, 0]])
    summary = judge(classes_task(4), echo_rows(logits, [0, 1, 1])).summary
    assert summary["f1"] == pytest.approx(2 / 3)
    assert summary["f1"] == pytest.approx(f1_score([0, 1, 1], [0, 0, 1], average="macro"))


def test_calibration_error_by_hand() -> None:
    confidences = torch.tensor([0.95, 0.95, 0.95, 0.95, 0.61, 1.0])
    right = torch.tensor([1, 1, 1, 0, 0, 1])
    logits = torch.stack([confidences, 1 - confidences], 1).log()
    summary = judge(classes_task(2), echo_rows(logits, 1 - right)).summary
    # the last bin holds the four and the one that is certain, the bin from 0.6 on the other
    expected = (abs(4 * 0.95 + 1 - 4) + 0.61) / 6
    assert summary["calibration_error"] == pytest.approx(expected, abs=1e-6)


def test_equal_scores_count_half() -> None:
    logits = torch.tensor([[0.0, 1], [0, 1], [0, 1], [0, 2], [3, 3], [1, 0]])
    labels = torch.tensor([0, 1, 1, 1, 0, 0])
    assert judge(classes_task(2), echo_rows(logits, labels)).summary["roc_auc"] == pytest.approx(
        roc_auc_score(labels, (logits[:, 1] - logits[:, 0])), abs=1e-12
    )


def metered_area(logits: Tensor, labels: Tensor, samples: int) -> float:
    """The area as it is for so many samples, fed with a few."""
    classes = logits.shape[1]
    meter = RocArea(classes, samples)
    for piece, some in zip(logits.split(500), labels.split(500), strict=True):
        meter.update(answers_of(classes_task(classes), piece, some))
    return float(meter.compute())


@pytest.mark.parametrize("scale", [0.1, 1, 30])
def test_the_area_of_more_data_than_is_kept_is_as_good_as_exact(scale: float) -> None:
    logits, labels = random_logits(5000, 3, scale=scale)
    assert metered_area(logits, labels, samples=5000) == pytest.approx(area_of(logits, labels), abs=2e-7)
    assert metered_area(logits, labels, samples=10**9) == pytest.approx(area_of(logits, labels), abs=2e-5)


def test_the_memory_of_many_classes_is_bounded_too() -> None:
    logits, labels = random_logits(6000, 1000, scale=3)
    meter = RocArea(1000, samples=10**9)
    assert meter.counts.numel() <= 1 << 24
    assert metered_area(logits, labels, 10**9) == pytest.approx(metered_area(logits, labels, 6000), abs=1e-5)


def test_odds_of_a_certain_model_keep_their_order() -> None:
    logits = torch.tensor([[50.0, 0, 0], [60, 0, 0], [500, 0, -9]])
    odds = log_odds(logits.double().log_softmax(1))
    assert odds[:, 0] == pytest.approx([50 - np.log(2), 60 - np.log(2), 500], rel=1e-6)
    assert odds[:, 1] == pytest.approx([-50, -60, -500], rel=1e-6)


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=2))
def test_the_order_of_halves_is_that_of_the_numbers(values: list[float]) -> None:
    tensor = torch.tensor(values)
    order, halves = half_order(tensor), tensor.half()
    assert torch.equal(order[:, None] < order, halves[:, None] < halves)
    assert int(order.abs().max()) <= 31744


class Untouched(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features.to(torch.bfloat16)


def test_metrics_are_computed_in_full_precision_whatever_the_model_does() -> None:
    logits, labels = random_logits(2000, 3)
    rounded = logits.bfloat16()
    summary = judge(classes_task(3), echo_rows(logits, labels), Untouched(), 700).summary
    assert summary["loss"] == pytest.approx(cross_entropy(rounded, labels).mean(), rel=1e-6)
    assert summary["roc_auc"] == pytest.approx(area_of(rounded, labels), abs=1e-9)
