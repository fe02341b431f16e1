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


class Contrastive(lightning.LightningModule):
    """Projects features for its loss, in a step that Lightning takes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 6)
        self.projections = nn.ModuleList(nn.Linear(6, 4) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: dict[str, Tensor], _index: int) -> Tensor:
        return self.loss_of(self(batch["x"]))

    def loss_of(self, features: Tensor) -> Tensor:
        one, other = [head(features) for head in self.projections]
        return (one - other).square().mean()


class ValidatedOnly(Contrastive):
    """The same, with projections that only validation calls."""

    def training_step(self, batch: dict[str, Tensor], _index: int) -> Tensor:
        return self(batch["x"]).square().mean()

    def validation_step(self, batch: dict[str, Tensor], _index: int) -> Tensor:
        return self.loss_of(self(batch["x"]))


class Similar(nn.Module):
    """An encoder whose scale of similarities is read only by its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(6, 6)
        self.scale_critic = nn.Parameter(torch.tensor(10.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.encode(x)  # type: ignore[no-any-return]

    def similarities(self, embeds: Tensor) -> Tensor:
        return embeds @ embeds.T * self.scale_critic

    def loss(self, embeds: Tensor) -> Tensor:
        return self.similarities(embeds).logsumexp(1).mean()


class ForgottenScale(Similar):
    """The same, with a loss that leaves the scale out."""

    def loss(self, embeds: Tensor) -> Tensor:
        return (embeds @ embeds.T).logsumexp(1).mean()


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


STEPS = [
    (Generator, Status.OK),
    (Forgetful, Status.FAIL),
    (Contrastive, Status.OK),
    (ValidatedOnly, Status.FAIL),
    (Similar, Status.OK),
    (ForgottenScale, Status.FAIL),
]


@pytest.mark.parametrize(("model", "status"), STEPS)
def test_a_part_that_the_training_step_calls_need_not_be_reached_by_forward(model: type[nn.Module], status: Status) -> None:
    evidence = found(model, "gradient_flow", "gradient_flow[reaches_every_parameter]")
    assert evidence.status is status, evidence.explain()
    assert any(name in evidence.message for name in ("training_step", "`loss`", "critic", "projections"))


def test_modules_among_the_hyperparameters_are_copies() -> None:
    def build() -> nn.Module:
        return Wrapped(nn.Sequential(nn.Linear(6, 9), nn.Linear(9, 6)), logger=False)

    evidence = found(build, "registration", "registration")
    assert evidence.status is Status.OK, evidence.explain()


def test_arguments_that_are_not_saved_are_named() -> None:
    evidence = found(lambda: Wrapped(nn.Linear(6, 6), ignore=["net"]), "serialisation", "serialisation[own_methods]")
    assert evidence.status is Status.SKIPPED, evidence.explain()
    assert "net" in evidence.message


class OnlyTrains(lightning.LightningModule):
    """Has a network and a training step, and no forward."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 6)

    def training_step(self, batch: dict[str, Tensor], _index: int) -> Tensor:
        return self.net(batch["x"]).square().mean()


def test_a_module_without_forward_is_told_what_to_write() -> None:
    found = judge_model(OnlyTrains, NUMBERS, only=["shape_contract"])["shape_contract"]
    assert found.status is Status.FAIL
    told = "`OnlyTrains` has no `forward`: add one that returns the outputs, such as `def forward(self, x): return self.net(x)`"
    assert told in found.message
