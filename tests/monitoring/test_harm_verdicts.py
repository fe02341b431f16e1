"""Drift that does harm fails, drift that does none warns."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.evidence import Status
from harness.monitoring.accuracy_estimate import AccuracyEstimate, AnsweredRows, fit_estimator
from harness.monitoring.drift import DriftReport, compare_profiles
from harness.monitoring.profiles import profile_columns
from harness.monitoring.verdict import ImpactFinding, PerformanceImpact, WindowVerdict

Array = NDArray[np.float64]


def estimated(accuracy: float, loss_interval: tuple[float, float], n: int = 1000) -> AccuracyEstimate:
    return AccuracyEstimate(accuracy, (accuracy - 0.02, accuracy + 0.02), 0.9, 0.9 - accuracy, loss_interval, n, 500)


def sampled(n: int, seed: int, irrelevant: float = 0.0, evidence: float = 2.0) -> dict[str, Array]:
    """Inputs of which the model looks at one: how far it is from 0 is how sure the model is."""
    generator = np.random.default_rng(seed)
    return {"irrelevant": generator.normal(irrelevant, 1, n), "evidence": generator.normal(0, evidence, n)}


def judged(window: dict[str, Array]) -> tuple[DriftReport, PerformanceImpact]:
    reference = sampled(2000, 0)
    correct = np.random.default_rng(1).random(2000) < 1 / (1 + np.exp(-2 * np.abs(reference["evidence"])))
    profile = profile_columns(reference)
    drift = compare_profiles(profile, profile_columns(window, profile))
    known = AnsweredRows(np.abs(reference["evidence"])[:, None], correct.astype(float))
    return drift, PerformanceImpact(fit_estimator(known).estimate(np.abs(window["evidence"])[:, None]), 0.05)


def test_no_drift_is_fine() -> None:
    drift, harm = judged(sampled(2000, 5))
    assert (drift.status, harm.finding, WindowVerdict(drift, harm).status) == (Status.OK, ImpactFinding.NOT_WORSE, Status.OK)


def measured(harm: PerformanceImpact) -> PerformanceImpact:
    """The same figures, by labels."""
    return replace(harm, estimate=replace(harm.estimate, is_measured=True))


def test_drift_of_an_input_that_the_model_does_not_look_at_warns_where_labels_say_so() -> None:
    drift, harm = judged(sampled(2000, 5, irrelevant=1.0))
    assert drift["irrelevant"].status is Status.FAIL
    assert harm.is_ruled_out
    assert WindowVerdict(drift, measured(harm)).status is Status.WARN


def test_an_estimate_never_clears_a_drift() -> None:
    """It does not see a model that is sure of wrong answers."""
    drift, harm = judged(sampled(2000, 5, irrelevant=1.0))
    assert (harm.status, WindowVerdict(drift, harm).status) == (Status.OK, Status.FAIL)
    assert harm.message.endswith("it does not see confident mistakes, or labels whose meaning changed")


def test_drift_that_leaves_the_model_unsure_fails() -> None:
    drift, harm = judged(sampled(2000, 5, evidence=0.3))
    assert drift["evidence"].status is Status.FAIL
    assert harm.finding is ImpactFinding.UNPROVEN, "its error on other data was never measured"
    assert harm.estimate.loss > 0.2
    assert WindowVerdict(drift, harm).status is Status.FAIL


def test_without_an_estimate_the_drift_itself_decides() -> None:
    drift, _ = judged(sampled(2000, 5, irrelevant=1.0))
    assert WindowVerdict(drift, None).status is Status.FAIL


@pytest.mark.parametrize(
    ("accuracy", "interval", "finding", "status"),
    [
        (0.7, (0.15, 0.25), ImpactFinding.WORSE, Status.FAIL),
        (0.84, (0.02, 0.1), ImpactFinding.UNPROVEN, Status.WARN),
        (0.9, (-0.2, 0.2), ImpactFinding.CANNOT_TELL, Status.OK),
        (0.88, (-0.02, 0.06), ImpactFinding.CANNOT_TELL, Status.OK),
        (0.88, (-0.02, 0.04), ImpactFinding.NOT_WORSE, Status.OK),
        (0.95, (-0.08, -0.02), ImpactFinding.NOT_WORSE, Status.OK),
    ],
)
def test_a_loss_is_held_against_the_margin_with_its_interval(
    accuracy: float, interval: tuple[float, float], finding: ImpactFinding, status: Status
) -> None:
    harm = PerformanceImpact(estimated(accuracy, interval), 0.05)
    assert (harm.finding, harm.status) == (finding, status)
    assert harm.evidence().status is status
    assert bool(harm.evidence().code) is (status is not Status.OK)
    assert f"{accuracy:.1%}" in harm.message
    assert json.loads(json.dumps(harm.to_json(), allow_nan=False))["finding"] == finding.value


@pytest.mark.parametrize(
    ("accuracy", "interval", "finding", "said"),
    [
        (0.84, (0.02, 0.1), ImpactFinding.UNPROVEN, "accuracy has fallen, perhaps by no more than is allowed"),
        (0.84, (-0.01, 0.08), ImpactFinding.UNPROVEN, "accuracy may have fallen, but it may be chance"),
        (0.70, (-0.1, 0.5), ImpactFinding.CANNOT_TELL, "cannot tell whether accuracy has fallen"),
        (0.98, (-0.2, 0.04), ImpactFinding.NOT_WORSE, "accuracy has not fallen by more than is allowed"),
    ],
)
def test_a_loss_by_labels_says_what_is_sure(
    accuracy: float, interval: tuple[float, float], finding: ImpactFinding, said: str
) -> None:
    harm = measured(PerformanceImpact(estimated(accuracy, interval), 0.05))
    assert harm.finding is finding
    assert harm.message.startswith(said)


def test_rows_without_labels_can_fail_a_window_and_keep_a_drift_from_being_harmless() -> None:
    labelled = measured(PerformanceImpact(estimated(0.9, (-0.02, 0.02)), 0.05))
    late = replace(labelled, unlabelled=PerformanceImpact(estimated(0.7, (0.15, 0.25)), 0.05))
    assert (labelled.is_known_not_worse, late.is_known_not_worse) == (True, False)
    assert (late.status, late.evidence().code) == (Status.FAIL, "harmful")
    assert "of the rows without labels: accuracy seems to have fallen" in late.message


def test_an_interval_that_is_too_wide_warns_where_there_is_doubt() -> None:
    assert PerformanceImpact(estimated(0.9, (-0.2, 0.2)), 0.05, warns_in_doubt=True).status is Status.WARN
    assert PerformanceImpact(estimated(0.9, (-0.2, 0.2)), 0.05, warns_in_doubt=True).evidence().code == "cannot_tell"
    assert PerformanceImpact(estimated(0.88, (-0.02, 0.06)), 0.05, warns_in_doubt=True).status is Status.WARN
    assert measured(PerformanceImpact(estimated(0.88, (-0.02, 0.06)), 0.05, warns_in_doubt=True)).status is Status.OK


def test_the_message_gives_the_figures_and_how_they_came_about() -> None:
    assert PerformanceImpact(estimated(0.7, (0.15, 0.25)), 0.05).message == (
        "accuracy seems to have fallen: an estimate of 70.0% (95% interval 68.0% to 72.0%) against 90.0%, "
        "a loss of 20.0 points (15.0 to 25.0, allowed 5); 1,000 rows against 500; estimated without labels (its error could not be "
        "measured): it does not see confident mistakes, or labels whose meaning changed"
    )
    assert "a gain of 5.0 points (2.0 to 8.0, allowed 5)" in PerformanceImpact(estimated(0.95, (-0.08, -0.02)), 0.05).message
    assert "without labels" not in PerformanceImpact(replace(estimated(0.7, (0.15, 0.25)), is_measured=True), 0.05).message


def test_drift_fails_as_long_as_harm_may_be() -> None:
    drift, _ = judged(sampled(2000, 5, irrelevant=1.0))
    assert WindowVerdict(drift, measured(PerformanceImpact(estimated(0.88, (-0.02, 0.06)), 0.05))).status is Status.FAIL
    assert WindowVerdict(drift, measured(PerformanceImpact(estimated(0.88, (-0.02, 0.04)), 0.05))).status is Status.WARN


def test_harm_fails_where_no_drift_is_seen() -> None:
    drift, _ = judged(sampled(2000, 5))
    assert WindowVerdict(drift, PerformanceImpact(estimated(0.7, (0.15, 0.25)), 0.05)).status is Status.FAIL


def test_an_empty_window_warns() -> None:
    empty = sampled(0, 0)
    drift, harm = judged(empty)
    assert WindowVerdict(drift, harm).status is Status.WARN
    assert harm.message == "accuracy cannot be estimated: the window is empty"


@pytest.mark.parametrize("margin", [-0.01, 5, float("nan")])
def test_a_margin_in_points_is_refused(margin: float) -> None:
    with pytest.raises(ValueError, match="share"):
        PerformanceImpact(estimated(0.9, (0, 0)), margin)
