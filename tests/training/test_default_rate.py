"""A learning rate that nobody chose is held against nobody."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.adapters import make_adapter
from harness.config import TrainingConfig
from harness.evidence import Evidence, Status
from harness.properties.subject import Subject
from harness.runtime import seeded
from harness.tasks import TaskSpec, TaskType
from harness.training.checks.overfits_one_batch import overfits_one_batch
from harness.training.trial import Trial

TABLE = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=5, num_classes=3)
DEFAULT = TrainingConfig().learning_rate


class Faint(nn.Module):
    """Its logits are far smaller than what its head computes, so that it wants large steps."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(5, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, features: Tensor) -> Tensor:
        return 0.03 * self.head(torch.tanh(self.hidden(features)))


def judged(config: dict[str, Any]) -> Evidence:
    with seeded(0):
        model = Faint().eval()
    return overfits_one_batch(Trial(Subject(model, make_adapter(TABLE), TABLE, pristine=model), TrainingConfig(**config)))


@pytest.mark.parametrize(
    ("config", "status"), [({}, Status.OK), ({"learning_rate": DEFAULT}, Status.WARN)], ids=["default", "chosen"]
)
@pytest.mark.long
def test_it_counts_who_chose_the_rate(config: dict[str, Any], status: Status) -> None:
    evidence = judged(config)
    assert evidence.status is status, evidence.explain()
    assert "learning_rate" in evidence.message
    assert f"{10 * DEFAULT:g}" in evidence.message or f"{100 * DEFAULT:g}" in evidence.message
