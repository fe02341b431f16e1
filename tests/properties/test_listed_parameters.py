"""Parameters that a plain list holds beside their registered names move with the model; a tensor that only the list holds does not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from harness.evidence import Status
from harness.tasks import TaskSpec, TaskType
from pytest_modeltiers.live import judge_model

TASK = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=4, num_classes=3)


class Listed(nn.Module):
    """Reads its scale from a list."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.ones(3))
        self.scales = [self.scale]

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features) * self.scales[0]


class ListedOnly(Listed):
    """The list holds another tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = [torch.ones(3)]


@pytest.mark.parametrize(("model", "status"), [(Listed, Status.OK), (ListedOnly, Status.FAIL)])
def test_a_listed_parameter_moves(model: type[nn.Module], status: Status) -> None:
    found = judge_model(model, TASK, only=("device_move",))["device_move"]

    assert found.status is status, found.explain()
