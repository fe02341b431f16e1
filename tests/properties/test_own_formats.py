"""Methods of a model that save and load it: what is at fault where a weight is lost."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from harness.tasks import TaskSpec, TaskType
from pytest_modeltiers.live import judge_model


class Saved(nn.Module):
    """Saves and loads itself by a path."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.body(features).tanh())

    def save(self, path: str) -> None:
        torch.save(self.state_dict(), path)

    def load(self, path: str) -> None:
        self.load_state_dict(torch.load(path))


class BodySaved(Saved):
    def save(self, path: str) -> None:
        torch.save(self.body.state_dict(), path)

    def load(self, path: str) -> None:
        self.body.load_state_dict(torch.load(path))


class HeadLeftOut(Saved):
    def load(self, path: str) -> None:
        known = {name: value for name, value in torch.load(path).items() if name.startswith("body")}
        self.load_state_dict(known, strict=False)


class WholeModelSaved(Saved):
    def save(self, path: str) -> None:
        torch.save(self, path)


@pytest.mark.parametrize(
    ("model", "cause"),
    [
        (BodySaved, "save leaves out `head.weight`, `head.bias`"),
        (HeadLeftOut, "save writes every weight, and load leaves one out"),
        (WholeModelSaved, "load reads another format"),
    ],
)
def test_the_cause_says_which_method_loses_a_weight(model: type[Saved], cause: str) -> None:
    task = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=4, num_classes=3)
    found = judge_model(model, task, only=["serialisation"])["serialisation[own_methods]"]
    assert cause in found.explain()
    assert "\x1b" not in found.explain()
