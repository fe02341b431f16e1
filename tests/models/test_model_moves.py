"""A model whose class has a `to` of its own is moved, trained and copied like any other."""

from __future__ import annotations

import torch
from planted_bugs.setups import verdict_of
from torch import Tensor, nn

from harness.adapters import make_adapter
from harness.evidence import Status
from harness.models.copies import move
from harness.properties.subject import Subject
from harness.tasks import TaskSpec, TaskType
from harness.training.trial import Trial


class OwnTo(nn.Module):
    """Keeps its device, as some packages do; and forgets to return itself."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.device = torch.device("cpu")

    def to(self, device: torch.device) -> None:  # type: ignore[override]
        super().to(device)
        self.device = device

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features.to(self.device))


def test_it_is_moved() -> None:
    model = OwnTo()

    assert move(model, torch.device("meta"), torch.float64) is model

    assert (model.linear.weight.device.type, model.linear.weight.dtype) == ("meta", torch.float64)
    assert model.device == torch.device("meta")


def test_it_is_trained() -> None:
    task = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=4, num_classes=3)
    trial = Trial(Subject(OwnTo().eval(), make_adapter(task), task))

    assert verdict_of("optimizer_coverage", trial, "", ()).status is Status.OK
