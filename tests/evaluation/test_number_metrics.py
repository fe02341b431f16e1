"""Metrics of regression."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from judging import echo_rows, judge, numbers_task
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

LABELS = np.random.default_rng(0).normal(size=23)
ERRORS = np.random.default_rng(1).normal(size=23) / 2


def rows_of(labels: np.ndarray, errors: np.ndarray) -> list[dict[str, torch.Tensor]]:
    return echo_rows((labels + errors)[:, None], labels)


@pytest.mark.parametrize("batch_size", [1, 4, 23])
def test_metrics_are_those_of_scikit_learn(batch_size: int) -> None:
    predicted = (LABELS + ERRORS).astype(np.float32)
    evaluation = judge(numbers_task(), rows_of(LABELS, ERRORS), batch_size=batch_size)
    assert list(evaluation.summary) == ["loss", "mae", "rmse", "r2"]
    assert evaluation.summary == pytest.approx(
        {
            "loss": np.mean((predicted - LABELS) ** 2),
            "mae": mean_absolute_error(LABELS, predicted),
            "rmse": root_mean_squared_error(LABELS, predicted),
            "r2": r2_score(LABELS, predicted),
        }
    )
    assert evaluation.scores["squared_error"] == pytest.approx((predicted - LABELS) ** 2, rel=1e-6)
    assert np.array_equal(evaluation.scores["squared_error"], evaluation.scores["loss"])


@pytest.mark.parametrize(("scale", "offset"), [(1e-4, 0), (1, 1e4), (1e6, 1e8)])
def test_r2_depends_on_neither_unit_nor_origin(scale: float, offset: float) -> None:
    labels = (scale * LABELS + offset).astype(np.float32)
    predicted = (labels + scale * ERRORS).astype(np.float32)
    rows = echo_rows(predicted[:, None], labels)
    assert judge(numbers_task(), rows).summary["r2"] == pytest.approx(
        r2_score(labels.astype(float), predicted.astype(float)), abs=1e-9
    )


@pytest.mark.parametrize("labels", [[2.0], [3.0, 3.0, 3.0]])
def test_r2_of_labels_without_variance_is_left_out(labels: list[float]) -> None:
    values = np.array(labels)
    assert list(judge(numbers_task(), rows_of(values, values)).summary) == ["loss", "mae", "rmse"]


def test_minus_a_hundred_is_a_number_like_any_other() -> None:
    assert judge(numbers_task(), rows_of(np.array([-100.0, 0]), np.array([3.0, 0]))).summary["loss"] == pytest.approx(4.5)
