"""What Lightning modules do their own way, and is no bug: parts that are stepped by hand, and arguments that are given again at loading."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning
import pytest
import torch
from planted_bugs.tier1.declared import task_of
from torch import Tensor, nn

from harness.evidence import Evidence, Status
from pytest_modeltiers.live import judge_model

NUMBERS = task_of({"inputs": {"x": {"axes": ["batch", 6]}}, "outputs": {"y": {"axes": ["batch", 6], "kind": "values"}}})


class Generator(lightning.LightningModule):
    """Writes numbers, which a critic judges in a step that is taken by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net, self.critic = nn.Linear(6, 6), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: dict[str, Tensor], _index: int) -> None:
        self.manual_backward(self.critic(self(batch["x"])).mean())

    def configure_optimizers(self) -> list[Any]:
        return [torch.optim.SGD(part.parameters(), 0.1) for part in (self.net, self.critic)]


class Forgetful(Generator):
    """The same, with a step that leaves out its critic."""

    def training_step(self, batch: dict[str, Tensor], _index: int) -> None:
        self.manual_backward(self(batch["x"]).mean())


class Wrapped(lightning.LightningModule):
    """A module around another, which it keeps among its hyperparameters or leaves out of them."""

    def __init__(self, net: nn.Module, **kept: Any) -> None:
        super().__init__()
        self.save_hyperparameters(**kept)
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def found(build: Callable[[], nn.Module], name: str, test: str, task: Any = NUMBERS) -> Evidence:
    return judge_model(build, task, only=[name])[test]


@pytest.mark.parametrize(("model", "status"), [(Generator, Status.OK), (Forgetful, Status.FAIL)])
def test_a_part_that_is_stepped_by_hand_need_not_be_reached_by_forward(model: type[nn.Module], status: Status) -> None:
    evidence = found(model, "gradient_flow", "gradient_flow[reaches_every_parameter]")
    assert evidence.status is status, evidence.explain()
    assert "training_step" in evidence.message or "critic" in evidence.message


def test_modules_among_the_hyperparameters_are_copies() -> None:
    def build() -> nn.Module:
        return Wrapped(nn.Sequential(nn.Linear(6, 9), nn.Linear(9, 6)), logger=False)

    evidence = found(build, "registration", "registration")
    assert evidence.status is Status.OK, evidence.explain()


def test_arguments_that_are_not_saved_are_named() -> None:
    evidence = found(lambda: Wrapped(nn.Linear(6, 6), ignore=["net"]), "serialisation", "serialisation[own_methods]")
    assert evidence.status is Status.SKIPPED, evidence.explain()
    assert "net" in evidence.message
