"""Trainings as public repositories write them: several optimizers, random draws, rates that nobody sets; none of them is reported."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from planted_bugs.tier3.training import CLASSES, FEATURES, TABLE, LitScores, Scores, Training
from torch import Tensor, nn

from harness.compat import lightning_of
from harness.config import SuiteConfig
from harness.errors import TrainingError
from harness.evidence import Status
from harness.training.checks import find_training

WHOLE = ("step_updates", "optimizer_coverage", "parameter_groups", "training_loss", "accumulation", "resume")

ENDS = ("step_updates", "fine_tuning", "memory_growth", "optimizer_coverage")

BATCH = {
    "states": {"axes": ["batch", 3]},
    "actions": {"axes": ["batch", 1]},
    "rewards": {"axes": ["batch"]},
}
AGENT = SuiteConfig.model_validate(
    {
        "model_file": "model.py",
        "inputs": {"state": {"axes": ["batch", 3]}},
        "outputs": {"action": {"axes": ["batch", 1]}},
        "labels": BATCH,
        "loss": "model",
    }
).task_spec()


class ActorCritic(lightning.LightningModule):
    """An agent: forward takes a state, the training step what was kept of earlier ones, and each part has an optimizer and random draws."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.policy, self.critic, self.target = nn.Linear(3, 1), nn.Linear(4, 1), nn.Linear(4, 1).requires_grad_(False)
        self.target.load_state_dict(self.critic.state_dict())

    def forward(self, state: Tensor) -> Tensor:
        return torch.tanh(self.policy(state))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        states, actions, rewards = batch
        of_policy, of_critic = self.optimizers()  # type: ignore[misc,union-attr]
        drawn = self(states) + torch.randn(len(states), 1)
        of_policy.zero_grad()
        self.manual_backward(-self.critic(torch.cat([states, drawn], 1)).mean())  # leaves a gradient in the critic
        of_policy.step()
        with torch.no_grad():
            wanted = rewards[:, None] + self.target(torch.cat([states, torch.randn(len(states), 1)], 1))
        of_critic.zero_grad()
        self.manual_backward(F.mse_loss(self.critic(torch.cat([states, actions], 1)), wanted))
        of_critic.step()
        for slow, fast in zip(self.target.parameters(), self.critic.parameters(), strict=True):
            slow.data.lerp_(fast.data, 0.1)

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(part.parameters(), lr=1e-3) for part in (self.policy, self.critic)]


class Momentum(LitScores):
    """A slow average of the network, norms and all, that is moved before the first forward of a step; the head waits for an epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, CLASSES))
        self.slow = copy.deepcopy(self.net).requires_grad_(False)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        with torch.no_grad():
            for slow, fast in zip(self.slow.parameters(), self.net.parameters(), strict=True):
                slow.mul_(0.996).add_(fast, alpha=0.004)
            wanted = self.slow(batch["features"])
        scores = self.net(batch["features"])
        return self.loss(scores, batch["labels"]) + F.mse_loss(scores, wanted)

    def on_after_backward(self) -> None:
        if self.current_epoch < 1:
            self.net[3].bias.grad = None

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net.parameters(), lr=1e-3)


class FindsItsRate(torch.optim.Optimizer):
    """As Adafactor without a rate."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": None})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.add_(parameter.grad, alpha=-0.5)
        return loss


class WithoutRate(LitScores):
    def configure_optimizers(self) -> Any:
        return FindsItsRate(self.parameters())


class WarmUp(torch.optim.lr_scheduler.LRScheduler):
    """Rates are numbers of NumPy, which a checkpoint keeps."""

    def get_lr(self) -> list[float]:
        return [rate * np.float64(min(1.0, (self.last_epoch + 1) / 4)) for rate in self.base_lrs]


class WithWarmUp(LitScores):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": WarmUp(optimizer), "interval": "step"}}


class Swapped(LitScores):
    """Weights are averaged from an epoch on that a short training does not reach; Lightning then ends with those of the start."""

    def configure_callbacks(self) -> Any:
        return [StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=9)]


class Averaging(LitScores):
    """The average takes the place of the weights when training ends: a frozen weight is its own average but for rounding."""

    def configure_callbacks(self) -> Any:
        return [EMAWeightAveraging(decay=0.99)]


class Target(LitScores):
    """A network for the values of next states, which is set to the trained one now and then, however it began."""

    def __init__(self) -> None:
        super().__init__()
        self.target = Scores()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.global_step % 3 == 0:
            self.target.load_state_dict(self.net.state_dict())

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.net.parameters(), lr=1e-2)


class SlowHead(LitScores):
    """An average of the weights within the part that it follows, which nobody froze."""

    def __init__(self) -> None:
        super().__init__()
        self.net.slow = copy.deepcopy(self.net)

    @torch.no_grad()
    def on_train_batch_end(self, *_: Any) -> None:
        for slow, fast in zip(self.net.slow.parameters(), self.net.parameters(), strict=False):
            slow.lerp_(fast, 0.1)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([*self.net.hidden.parameters(), *self.net.head.parameters()], lr=1e-2)


class SlowHeadAndDecay(SlowHead):
    """It shrinks what may be frozen, too."""

    @torch.no_grad()
    def on_train_batch_end(self, *_: Any) -> None:
        super().on_train_batch_end()
        self.net.hidden.weight.mul_(0.99)


class Growing(lightning.LightningModule):
    """A loss that grows with the steps, known by the training step only."""

    def __init__(self) -> None:
        super().__init__()
        self.policy, self.steps = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)), 0

    def forward(self, state: Tensor) -> Tensor:
        return self.policy(state)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        states, actions, _ = batch
        self.steps += 1
        return self.steps * F.mse_loss(self(states), self.wanted(states, actions))

    def wanted(self, states: Tensor, actions: Tensor) -> Tensor:
        return actions

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class Refusing(LitScores):
    """Keeps a list of what is trained, and asserts that it stays so."""

    def __init__(self) -> None:
        super().__init__()
        self.trained = [name for name, parameter in self.named_parameters() if parameter.requires_grad]

    def on_train_batch_end(self, *_: Any) -> None:
        assert all(self.get_parameter(name).requires_grad for name in self.trained)


class LateTarget(LitScores):
    """A target network with fresh weights, which a step sets to the trained one when it is done."""

    def __init__(self) -> None:
        super().__init__()
        self.target = Scores()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        with torch.no_grad():
            wanted = self.target(batch["features"])
        loss = super().training_step(batch, batch_idx) + self.weight(batch_idx) * F.mse_loss(self(batch["features"]), wanted + 1)
        if self.global_step % 3 == 0:
            self.target.load_state_dict(self.net.state_dict())
        return loss  # type: ignore[no-any-return]

    def weight(self, batch_idx: int) -> float:
        return 1.0

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.net.parameters(), lr=1e-2)


class LateTargetByBatch(LateTarget):
    def weight(self, batch_idx: int) -> float:
        return 1.0 + batch_idx


@pytest.mark.parametrize(("build", "status"), [(LateTarget, Status.OK), (LateTargetByBatch, Status.FAIL)])
def test_a_target_that_is_set_within_an_accumulated_step(build: type[LateTarget], status: Status, tmp_path: Path) -> None:
    found = find_training("accumulation", Training(TABLE, build).trial(tmp_path))
    assert found.status is status, found.explain()


def test_an_average_excuses_only_what_it_wrote(tmp_path: Path) -> None:
    found = find_training("fine_tuning", Training(TABLE, SlowHeadAndDecay).trial(tmp_path))
    assert (found.status, found.code, found.module) == (Status.FAIL, "frozen_parameter_changes", "net.hidden.weight")


def test_what_a_model_refuses_itself_is_a_warning(tmp_path: Path) -> None:
    found = find_training("fine_tuning", Training(TABLE, Refusing).trial(tmp_path))
    assert (found.status, found.code) == (Status.WARN, "raises_when_frozen")


@pytest.mark.parametrize(
    ("setup", "checks"),
    [
        (Training(AGENT, ActorCritic), WHOLE),
        (Training(TABLE, WithoutRate), (*WHOLE, "overfits_one_batch", "learning_rate_schedule")),
        (Training(TABLE, Momentum), WHOLE),
        (Training(TABLE, WithWarmUp), ("resume", "learning_rate_schedule")),
        (Training(TABLE, Swapped), ENDS),
        (Training(TABLE, Averaging), ENDS),
        (Training(TABLE, Target), ENDS),
        (Training(TABLE, SlowHead), ENDS),
        (Training(AGENT, Growing), ("fine_tuning",)),
    ],
    ids=["agent", "without_rate", "momentum", "numbers_of_numpy", "swapped", "averaging", "target", "slow_head", "growing"],
)
def test_no_alarm(setup: Training, checks: tuple[str, ...], tmp_path: Path) -> None:
    found = setup.judge(checks, tmp_path)
    assert {test: each.explain() for test, each in found.items() if each.status in (Status.FAIL, Status.WARN)} == {}
    assert "resume" not in checks or found["resume"].status is Status.OK


def made_by(package: str) -> type[nn.Module]:
    """A LightningModule with a schedule and a validation, of one of the two packages that have that class."""
    base: Any = pytest.importorskip(package).LightningModule

    class OfPackage(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = Scores()

        def forward(self, features: Tensor) -> Tensor:
            return self.net(features)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            loss = F.cross_entropy(self(batch["features"]), batch["labels"])
            self.log("loss", loss)
            return loss

        def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
            self.log("val_loss", F.cross_entropy(self(batch["features"]), batch["labels"]))

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
            return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)]

    return OfPackage


def test_modules_of_the_older_package_are_trained_by_it(tmp_path: Path) -> None:
    trials = {name: Training(TABLE, made_by(name)).trial(tmp_path) for name in ("lightning.pytorch", "pytorch_lightning")}
    assert {lightning_of(trial.subject.model).__name__ for trial in trials.values()} == trials.keys()
    ours, older = (trial.train([trial.subject.batch()] * 2).model.state_dict() for trial in trials.values())
    assert all(torch.equal(ours[name], older[name]) for name in ours)
    found = Training(TABLE, made_by("pytorch_lightning")).judge((*WHOLE, "validation_pass", "overfits_one_batch"), tmp_path)
    assert {test: each.explain() for test, each in found.items() if each.status in (Status.FAIL, Status.WARN)} == {}
    assert sum(each.status is Status.OK for each in found.values()) > 6


def test_a_version_of_it_that_is_too_old_is_refused_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Training(TABLE, made_by("pytorch_lightning")).trial(tmp_path)
    monkeypatch.setattr("pytorch_lightning.__version__", "1.9.5")
    with pytest.raises(TrainingError, match=r"pytorch_lightning 1\.9\.5 is installed.*pip install -U pytorch-lightning"):
        trial.train([trial.subject.batch()])


class OnPlateau(LitScores):
    """Its schedule reads the result of validation."""

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
        return {
            "optimizer": optimizer,
            "lr_scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer),
            "monitor": "val_loss",
        }


@pytest.mark.long
def test_two_processes_validate_where_one_does(tmp_path: Path) -> None:
    found = find_training("distributed", Training(TABLE, OnPlateau).trial(tmp_path))
    assert found.status is Status.OK, found.explain()


class Tuned(LitScores):
    """A model that comes with trained weights, at a rate for them; its fresh ones stand in their place."""

    rate = 2e-5

    def __init__(self) -> None:
        super().__init__()
        self.net.from_pretrained = None

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=self.rate)


class FarTooSmall(Tuned):
    rate = 1e-8


@pytest.mark.parametrize(("build", "status"), [(Tuned, Status.OK), (FarTooSmall, Status.WARN)])
def test_a_rate_for_trained_weights_is_no_finding_on_fresh_ones(build: type[Tuned], status: Status, tmp_path: Path) -> None:
    found = Training(TABLE, build).judge(["overfits_one_batch"], tmp_path)["overfits_one_batch"]
    assert found.status is status, found.explain()
    assert ("a rate for trained weights" in found.message) is (status is Status.OK)


class Adapters(nn.Module):
    """A few numbers are trained in a network that is not; what comes out of it is too small for labels to be learnt by heart."""

    def __init__(self, is_cut: bool) -> None:
        super().__init__()
        self.base, self.head = nn.Linear(FEATURES, 64).requires_grad_(False), nn.Linear(64, CLASSES).requires_grad_(False)
        self.low = nn.Parameter(torch.randn(6) * 0.1)
        self.is_cut = is_cut

    def forward(self, features: Tensor) -> Tensor:
        low = self.low.detach() + 0 * self.low if self.is_cut else self.low
        return self.head(torch.tanh(self.base(features * (1 + low)))) / 2


class LowRank(nn.Module):
    """The same as LoRA's pair, of more than a tenth of all numbers, before a frozen head that lets little through."""

    def __init__(self, is_cut: bool) -> None:
        super().__init__()
        self.base, self.head = nn.Linear(FEATURES, 8).requires_grad_(False), nn.Linear(8, CLASSES).requires_grad_(False)
        self.lora_A, self.lora_B = nn.Linear(FEATURES, 1, bias=False), nn.Linear(1, 8, bias=False)
        self.is_cut = is_cut

    def forward(self, features: Tensor) -> Tensor:
        low = self.lora_B(self.lora_A(features))
        return self.head(torch.tanh(self.base(features) + (0 * low if self.is_cut else low))) / 2


@pytest.mark.parametrize("build", [Adapters, LowRank])
@pytest.mark.parametrize(("is_cut", "status"), [(False, Status.SKIPPED), (True, Status.FAIL)])
def test_adapters_that_learn_something_need_not_learn_by_heart(
    build: Callable[[bool], nn.Module], is_cut: bool, status: Status, tmp_path: Path
) -> None:
    found = Training(TABLE, lambda: build(is_cut)).judge(["overfits_one_batch"], tmp_path)["overfits_one_batch"]
    assert found.status is status, found.explain()


MASKS = SuiteConfig.model_validate(
    {
        "model_file": "model.py",
        "inputs": {"image": {"axes": ["batch", 3, 8, 8]}},
        "outputs": {"mask": {"axes": ["batch", 4, 8, 8], "kind": "class_scores", "classes": 1}},
        "loss": "model",
    }
).task_spec()


class Overlap(lightning.LightningModule):
    """Segments by the dice loss, which leaves single pixels wrong and sure of it: their cross-entropy stays high."""

    is_turned = False

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 3, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        image, labels = batch
        given, wanted = self(image).softmax(1), F.one_hot(labels, 4).movedim(-1, 1).float()
        wanted = wanted.flip(2) if self.is_turned else wanted
        both, all_of_them = (given * wanted).sum((0, 2, 3)), (given + wanted).sum((0, 2, 3))
        return (1 - (2 * both + 1) / (all_of_them + 1)).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class Turned(Overlap):
    is_turned = True


@pytest.mark.parametrize(("build", "status"), [(Overlap, Status.OK), (Turned, Status.FAIL)])
def test_a_loss_of_another_kind_has_learnt_where_it_predicts_the_labels(
    build: type[Overlap], status: Status, tmp_path: Path
) -> None:
    found = find_training("overfits_one_batch", Training(MASKS, build).trial(tmp_path))
    assert found.status is status, found.explain()
