"""Adapters that `eval()` folds into the weights and `train()` takes out again have right gradients, and a wrong one is still found."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from harness.evidence import Status
from harness.tasks import TaskSpec, TaskType
from pytest_modeltiers.live import judge_model

TASK = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=4, num_classes=3)


class Folding(nn.Module):
    """A linear layer with an adapter of low rank."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(4, 3)
        self.base.weight.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(2, 4))
        self.up = nn.Parameter(torch.randn(3, 2))
        self.is_folded = False

    def train(self, mode: bool = True) -> Folding:
        super().train(mode)
        if mode == self.is_folded:
            self.base.weight.data += (-1 if mode else 1) * self.up.data @ self.down.data
            self.is_folded = not mode
        return self

    def forward(self, features: Tensor) -> Tensor:
        y: Tensor = self.base(features)
        return y if self.is_folded else y + self.adapted(features)

    def adapted(self, features: Tensor) -> Tensor:
        return features @ self.down.T @ self.up.T


class HalfDetached(Folding):
    """A part of the gradient of `up` is cut off."""

    def adapted(self, features: Tensor) -> Tensor:
        whole = super().adapted(features)
        return whole / 2 + whole.detach() / 2


@pytest.mark.parametrize(("model", "status"), [(Folding, Status.OK), (HalfDetached, Status.WARN)])
def test_gradients_of_folded_adapters(model: type[nn.Module], status: Status) -> None:
    found = judge_model(model, TASK, only=("gradcheck",), tiers=(2,))["gradcheck"]

    assert found.status is status, found.explain()
