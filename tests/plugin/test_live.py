"""Tiers on a model object: chosen by number, refused where a model is not enough."""

from __future__ import annotations

import pytest
from planted_bugs.tasks import TABLE
from planted_bugs.tier1.tabular import Perceptron

from harness.evidence import Status
from pytest_modeltiers.live import judge_model


def test_tier_one_is_judged_by_default() -> None:
    assert set(judge_model(Perceptron, TABLE, only=["causal", "gradient_flow", "gradcheck"])) == {
        "gradient_flow[reaches_every_parameter]",
        "gradient_flow[finite]",
    }


def test_two_tiers_are_judged_together() -> None:
    findings = judge_model(Perceptron, TABLE, only=["inputs_unchanged", "gradcheck"], tiers=(1, 2))
    assert {name: finding.status for name, finding in findings.items()} == {
        "inputs_unchanged": Status.OK,
        "gradcheck": Status.OK,
    }


def test_a_tier_that_needs_more_than_a_model_is_refused() -> None:
    with pytest.raises(ValueError, match="tier 3 needs more than a model"):
        judge_model(Perceptron, TABLE, tiers=(1, 3))
