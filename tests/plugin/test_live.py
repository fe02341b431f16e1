"""Tiers on a model object: chosen by number, refused where a model is not enough."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from planted_bugs.tasks import TABLE
from planted_bugs.tier1.tabular import Perceptron

from harness.errors import ExampleError
from harness.evidence import Status
from pytest_modeltiers.live import judge_model, task_of_example


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


class Lazy(types.ModuleType):
    """A module that is imported at its first use, and lacks a package then."""

    def __getattr__(self, name: str) -> object:
        raise ImportError(f"install something to use {name}")


def test_a_loaded_module_that_cannot_be_looked_at_disturbs_no_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Lazy("lazy")
    del module.__dict__["__loader__"]
    monkeypatch.setitem(sys.modules, "lazy", module)
    with pytest.raises(ImportError):
        module.__file__  # noqa: B018

    found = judge_model(Perceptron, TABLE, only=["shape_contract", "finite_output", "batch_independence"])

    assert {name: finding.status for name, finding in found.items() if finding.status is not Status.OK} == {}


def test_a_tier_that_needs_more_than_a_model_is_refused() -> None:
    with pytest.raises(ValueError, match="tier 3 needs more than a model"):
        judge_model(Perceptron, TABLE, tiers=(1, 3))


def test_a_task_is_read_from_an_example() -> None:
    task = task_of_example(Perceptron(), torch.randn(3, TABLE.num_features or 1))

    assert task.signature.inputs[0].axes == ("batch", TABLE.num_features)
    found = judge_model(Perceptron, task, only=["shape_contract", "inputs_unchanged"])
    assert {name: finding.status for name, finding in found.items()} == {
        "shape_contract": Status.OK,
        "inputs_unchanged": Status.OK,
    }


def test_an_example_that_cannot_be_called_with_is_refused() -> None:
    with pytest.raises(ExampleError, match=r"Perceptron called with the example \(.* \[3, 99\]\) raised RuntimeError"):
        task_of_example(Perceptron(), torch.randn(3, 99))
