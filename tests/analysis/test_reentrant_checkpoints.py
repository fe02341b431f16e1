"""A model that checkpoints its activations the reentrant way is judged in every check that asks for the gradient by an input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction, checkpoint

from harness.compat import called_directly
from harness.evidence import Evidence, Status
from harness.tasks import TaskSpec, TaskType
from pytest_modeltiers.live import judge_model

TABLE = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=4, num_classes=3)
NAMES = ("batch_independence", "attribution", "robustness", "gradcheck")


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.second = nn.Linear(8, 3)

    def part(self, hidden: Tensor) -> Tensor:
        return self.second(hidden.tanh())

    def forward(self, features: Tensor) -> Tensor:
        return checkpoint(self.part, self.first(features), use_reentrant=True)


class Cut(Checkpointed):
    """Detaches half of what it is given inside the checkpoint."""

    def part(self, hidden: Tensor) -> Tensor:
        return super().part(hidden) + super().part(hidden.detach())


class Asking(Checkpointed):
    """Asks for the gradient in its own forward, which raises wherever it is used."""

    def forward(self, features: Tensor) -> Tensor:
        features = features.detach().requires_grad_()
        with torch.enable_grad():
            logits = super().forward(features)
            return logits + torch.autograd.grad(logits.sum(), features)[0][:, :3]


def judged(kind: type[nn.Module]) -> dict[str, Evidence]:
    return judge_model(kind, TABLE, only=NAMES, tiers=(1, 2), share=0.5)


def test_a_sound_model_is_judged_and_green() -> None:
    found = judged(Checkpointed)
    assert {name: e.explain() for name, e in found.items() if e.status is Status.FAIL} == {}
    assert found["gradcheck"].status is Status.OK


def test_a_gradient_that_is_cut_inside_the_checkpoint_is_found() -> None:
    found = judged(Cut)["gradcheck"]
    assert (found.status, found.code) == (Status.WARN, "detached")


def test_a_forward_that_asks_by_itself_still_raises() -> None:
    found = judge_model(Asking, TABLE, only=("shape_contract",), share=0.5)["shape_contract"]
    assert found.status is Status.FAIL
    assert "forward raises" in found.message


def test_torchs_own_function_is_back_after_an_error() -> None:
    import torch.utils.checkpoint as module

    with pytest.raises(ValueError, match="inside"), called_directly():
        raise ValueError("inside")
    assert module.CheckpointFunction is CheckpointFunction
