"""A gradient that is zero in training may be another one elsewhere; one that is absent is not forgiven."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from harness.evidence import Evidence, Status
from harness.tasks import TaskSpec, TaskType
from pytest_modeltiers.live import judge_model

TABLE = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=4, num_classes=3)


class Adapted(nn.Module):
    """A frozen stem, an adapter, and a head."""

    reentrant = False

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.adapter, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.stem.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.stem(x).tanh()
        if self.training:
            return self.head(checkpoint(self.adapter, hidden, use_reentrant=self.reentrant))
        return self.head(self.adapter(hidden))


class CutOffByReentrantCheckpointing(Adapted):
    """No input of the checkpoint asks for a gradient, so that in training the adapter has none."""

    reentrant = True


class BiasBeforeANorm(nn.Module):
    """The norm takes the bias away in train mode, where its gradient is zero but for rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.first(x)).tanh())


class LeftOutAtRandom(Adapted):
    """Stochastic depth."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.stem(x).tanh()
        if self.training and float(torch.rand(())) < 0.7:
            return self.head(hidden)
        return self.head(hidden + self.adapter(hidden))


def reached(model: type[nn.Module]) -> Evidence:
    return judge_model(model, TABLE, only=["gradient_flow"], share=0.1)["gradient_flow[reaches_every_parameter]"]


@pytest.mark.filterwarnings("ignore")
def test_what_is_cut_off_in_training_is_found_though_eval_mode_reaches_it() -> None:
    finding = reached(CutOffByReentrantCheckpointing)
    assert finding.status is Status.FAIL
    assert finding.message.startswith("parameter `adapter.weight` receives no gradient (and 1 other parameter)")


@pytest.mark.parametrize("model", [Adapted, BiasBeforeANorm, LeftOutAtRandom])
def test_sound_models_pass(model: type[nn.Module]) -> None:
    finding = reached(model)
    assert finding.status is Status.OK, finding.explain()
