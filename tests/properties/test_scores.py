"""Scores that an activation bounds are found by how they are made, and a loss of one's own may want them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from harness.adapters import Adapter
from harness.batches import Batch
from harness.evidence import Status
from harness.tasks import TaskSpec, TaskType
from pytest_modeltiers.live import judge_model

TABLE = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=4, num_classes=3)
NUMBER = TaskSpec(TaskType.TABULAR_REGRESSION, num_features=4)


class Net(nn.Module):
    def __init__(self, last: nn.Module, outputs: int = 3) -> None:
        super().__init__()
        self.head, self.last = nn.Linear(4, outputs), last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.head(x))[..., :].contiguous()


class OfProbabilities(Adapter):
    """The loss of probabilities."""

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return nn.functional.nll_loss(logits.log(), batch["labels"])


class ZeroHead(Net):
    """Starts with equal scores."""

    def __init__(self) -> None:
        super().__init__(nn.Identity())
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)


class Shifted(nn.ReLU):
    """Scores from -1 on, none of them cut off by accident: not for this property to tell."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) - 1


def status_of(last: nn.Module, adapter: Adapter | None = None) -> tuple[Status, str, str]:
    finding = judge_model(lambda: Net(last), TABLE, adapter=adapter, only=["logit_range"])["logit_range"]
    return finding.status, finding.message, finding.module


@pytest.mark.parametrize("last", [nn.ReLU(), nn.GELU(), nn.SiLU(), nn.Softplus(), nn.Softmax(-1), nn.Sigmoid()])
def test_bounded_scores_are_found_and_the_module_is_named(last: nn.Module) -> None:
    status, message, module = status_of(last)
    assert status is Status.FAIL
    assert module == "last"
    assert message.startswith("forward ends in a ")


@pytest.mark.parametrize("last", [nn.Identity(), nn.LogSoftmax(-1), nn.Tanh(), nn.LeakyReLU(), Shifted(), nn.Dropout()])
def test_free_scores_pass(last: nn.Module) -> None:
    assert status_of(last)[0] is Status.OK


def test_equal_scores_at_the_start_are_no_bound() -> None:
    assert judge_model(ZeroHead, TABLE, only=["logit_range"])["logit_range"].status is Status.OK


def test_a_loss_of_probabilities_may_be_meant() -> None:
    assert status_of(nn.Softmax(-1), OfProbabilities(TABLE))[0] is Status.WARN


def test_a_number_may_be_bounded() -> None:
    assert "logit_range" not in judge_model(lambda: Net(nn.ReLU(), 1), NUMBER, only=["logit_range"])


def test_the_model_keeps_no_gradient() -> None:
    model = Net(nn.Identity())
    judge_model(lambda: model, TABLE, only=["logit_range"])
    assert model.head.weight.grad is None
    assert torch.is_grad_enabled()
