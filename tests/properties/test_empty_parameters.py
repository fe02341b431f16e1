"""A parameter without elements, as a memory of no tokens has, is no reason to fail."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.evidence import Status
from harness.tasks import TaskSpec, TaskType
from pytest_modeltiers.live import judge_model

TASK = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=4, num_classes=3)


class WithoutMemory(nn.Module):
    """Reads a memory of no rows."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.Parameter(torch.empty(2, 0))
        self.linear = nn.Linear(4, 3)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features) + self.memory.sum()


def test_rows_without_elements_are_no_twins() -> None:
    found = judge_model(WithoutMemory, TASK, only=("initialisation",))["initialisation[symmetry]"]

    assert found.status is Status.OK, found.explain()
