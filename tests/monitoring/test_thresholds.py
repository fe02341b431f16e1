"""Thresholds of metrics, judged with the interval that chance leaves the metric."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from harness.evaluation.evaluation import Evaluation
from harness.evidence import Status
from harness.monitoring.thresholds import ThresholdFinding, ThresholdVerdict, wilson_interval


def judged(metric: str, value: float | None, limit: float, **scores: Any) -> ThresholdVerdict:
    rows = {name: np.asarray(each, np.float32) for name, each in scores.items()}
    summary = {} if value is None else {metric: value}
    return ThresholdVerdict.of(metric, limit, Evaluation(summary, rows, {}, len(next(iter(rows.values()))), 0.0))


def right(count: int, n: int) -> list[int]:
    return [1] * count + [0] * (n - count)


@pytest.mark.parametrize(
    ("count", "n", "finding", "status"),
    [
        (150, 200, ThresholdFinding.MISSED, Status.FAIL),
        (168, 200, ThresholdFinding.IN_DOUBT, Status.WARN),
        (170, 200, ThresholdFinding.MET, Status.OK),
        (2, 3, ThresholdFinding.IN_DOUBT, Status.WARN),
        (0, 3, ThresholdFinding.MISSED, Status.FAIL),
        (8_300, 10_000, ThresholdFinding.MISSED, Status.FAIL),
    ],
)
def test_accuracy_fails_where_it_is_surely_below_and_warns_in_doubt(
    count: int, n: int, finding: ThresholdFinding, status: Status
) -> None:
    found = judged("accuracy", count / n, 0.85, correct=right(count, n))
    assert (found.finding, found.finding.status) == (finding, status)
    assert bool(found.finding.code) is (status is not Status.OK)


@pytest.mark.parametrize("n", [50, 200, 1000, 5000])
def test_a_model_at_its_threshold_rarely_fails_and_one_well_below_does(n: int) -> None:
    """Exactly, over every number of right answers."""
    counts = np.arange(n + 1)
    fails = np.array([wilson_interval(count / n, n)[1] < 0.85 for count in counts])
    rates = {true: float(binom.pmf(counts, n, true)[fails].sum()) for true in (0.85, 0.86, 0.75)}
    assert rates[0.85] <= 0.035
    assert rates[0.86] <= 0.025
    assert rates[0.75] >= (0.9 if n >= 200 else 0.2)


def test_losses_have_an_interval_too_and_the_value_decides_where_there_is_none() -> None:
    losses = np.random.default_rng(0).exponential(size=400)
    mean = float(losses.mean())
    assert judged("loss", mean, mean - 0.02, loss=losses).finding is ThresholdFinding.IN_DOUBT
    assert judged("loss", mean, mean - 0.3, loss=losses).finding is ThresholdFinding.MISSED
    assert judged("perplexity", np.exp(mean), np.exp(mean) - 0.05, loss=losses).finding is ThresholdFinding.IN_DOUBT
    assert judged("rmse", 2.0, 1.98, squared_error=losses * 4 / mean).finding is ThresholdFinding.IN_DOUBT
    assert judged("f1", 0.84, 0.85, loss=losses).finding is ThresholdFinding.MISSED
    assert "no interval is known" in judged("f1", 0.84, 0.85, loss=losses).message
    assert judged("loss", 2.0, 1.9, loss=[2.0]).finding is ThresholdFinding.MISSED
    assert judged("roc_auc", None, 0.9, loss=losses).finding is ThresholdFinding.MISSED


def test_accuracy_of_positions_goes_by_rows() -> None:
    shares = np.random.default_rng(0).beta(8, 2, 100)
    found = judged("accuracy", float(shares.mean()), float(shares.mean()) + 0.01, accuracy=shares)
    assert found.finding is ThresholdFinding.IN_DOUBT
    assert "but it may be chance (95% interval" in found.message
