"""Reported bugs of what steers a training: averages after a restart, two optimizers, a warm-up by epochs, decay of what is frozen."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import partial
from types import SimpleNamespace
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.evidence import Status
from tests.planted_bugs.tier3.training import Training

from .register import FirstRun, pair_of_one_class, task_of

WIDTH, CLASSES = 12, 4
OCEAN = task_of(inputs={"state": {"axes": ["batch", 6]}}, outputs={"next": {"axes": ["batch", 6], "kind": "values"}})
SOUNDS = task_of(inputs={"coarse": {"axes": ["batch", 6]}}, outputs={"sound": {"axes": ["batch", 8], "kind": "values"}})
IMAGES = task_of(task_type="image_classification", image_size=[3, 8, 8], num_classes=CLASSES)


def perceptron(into: int, out: int) -> nn.Module:
    """Two layers."""
    return nn.Sequential(nn.Linear(into, WIDTH), nn.Tanh(), nn.Linear(WIDTH, out))


class Averaged(lightning.LightningModule):
    """Answers by averaged weights; the bug begins the average anew when a training starts, also where a checkpoint brought it back."""

    updates: Tensor

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.net = wrong, perceptron(6, 6)
        self.ema_net = copy.deepcopy(self.net).requires_grad_(False)
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def forward(self, state: Tensor) -> Tensor:
        return state + (self.net if self.training else self.ema_net)(state)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return F.mse_loss(self(batch["state"]), batch["labels"])

    def on_fit_start(self) -> None:
        if self.wrong or self.updates == 0:
            self.ema_net.load_state_dict(self.net.state_dict())
            self.updates.zero_()

    @torch.no_grad()
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.updates += 1
        for slow, fast in zip(self.ema_net.parameters(), self.net.parameters(), strict=True):
            slow.lerp_(fast, 0.1)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.net.parameters(), lr=5e-3)


def average_lost_in_a_restart(model: Any) -> float:
    """How far the average is moved where a training goes on from a checkpoint."""
    with torch.no_grad():
        for each in model.net.parameters():
            each += 1
    model.on_train_batch_end(None, None, 0)
    other = Averaged(model.wrong)
    other.load_state_dict(model.state_dict())
    other.on_fit_start()
    pairs = zip(other.ema_net.parameters(), model.ema_net.parameters(), strict=True)
    return float(max((after - before).abs().max() for after, before in pairs))


class Codec(lightning.LightningModule):
    """A generator of sound and its critic; the bug leaves what the generator's loss made of the critic's gradients to the critic's step."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.automatic_optimization = wrong, False
        self.generator, self.critic = perceptron(6, 8), perceptron(8, 1)

    def forward(self, coarse: Tensor) -> Tensor:
        return self.generator(coarse)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        for_generator, for_critic = self.optimizers()  # type: ignore[misc]
        made, real = self(batch["coarse"]), batch["labels"]
        self.manual_backward(F.mse_loss(made, real) + 0.1 * F.softplus(-self.critic(made)).mean())
        for_generator.step()
        for_generator.zero_grad()
        if not self.wrong:
            for_critic.zero_grad()
        told = F.softplus(-self.critic(real)).mean() + F.softplus(self.critic(made.detach())).mean()
        self.manual_backward(told)
        for_critic.step()
        for_critic.zero_grad()

    def configure_optimizers(self) -> Any:
        return [torch.optim.AdamW(each.parameters(), lr=3e-3) for each in (self.generator, self.critic)]


def gradient_of_another_loss(model: Any) -> float:
    """How far the gradient that the critic steps by is from that of its own loss."""
    batch = {"coarse": torch.randn(4, 6), "labels": torch.randn(4, 8)}
    optimizers, seen = model.configure_optimizers(), {}
    model.optimizers, model.manual_backward = lambda: optimizers, lambda loss: loss.backward()
    made = model(batch["coarse"]).detach()
    told = F.softplus(-model.critic(batch["labels"])).mean() + F.softplus(model.critic(made)).mean()
    expected = torch.autograd.grad(told, model.critic[0].weight)[0]
    optimizers[1].step = lambda: seen.update(found=model.critic[0].weight.grad.clone())
    model.training_step(batch, 0)
    return float((seen["found"] - expected).abs().max())


class Classifier(lightning.LightningModule):
    """An image classifier whose rate rises over the first quarter of its steps; the bug counts those of the epoch, and begins anew in each."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.rate = wrong, 5e-3
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(192, WIDTH), nn.Tanh(), nn.Linear(WIDTH, CLASSES))

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.net(pixel_values)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch["pixel_values"]), batch["labels"])

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        step = batch_idx if self.wrong else self.trainer.global_step
        warm = max(2, int(self.trainer.estimated_stepping_batches) // 4)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.rate * min(1.0, (step + 1) / warm)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=self.rate)


def falls_in_a_second_epoch(model: Any) -> float:
    """How much of its rate a training loses where a second epoch begins."""
    optimizer, rates = model.configure_optimizers(), []
    run = SimpleNamespace(estimated_stepping_batches=40, optimizers=[optimizer], global_step=0)
    model._fabric, model._trainer = None, run
    for run.global_step in range(40):
        model.on_train_batch_start(None, run.global_step % 20)
        rates.append(optimizer.param_groups[0]["lr"])
    return max(0.0, (rates[19] - rates[20]) / model.rate)


class TrueDecay(torch.optim.Adam):
    """Adam that shrinks the weights itself; the bug shrinks those that are frozen as well."""

    def __init__(self, layers: Iterable[nn.Module], wrong: bool) -> None:
        every = [each for layer in layers for each in layer.parameters()]
        trained = [each for each in every if each.requires_grad]
        super().__init__(trained, lr=1e-2)
        self.shrunk = every if wrong else trained

    def step(self, closure: Any = None) -> Any:
        loss = closure() if closure else None
        with torch.no_grad():
            for each in self.shrunk:
                each.mul_(1 - 0.01 * self.param_groups[0]["lr"])
        super().step()
        return loss


class Detector(lightning.LightningModule):
    """A frozen backbone and a head."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.backbone, self.head = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Linear(128, CLASSES)
        self.backbone.requires_grad_(False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(self.backbone(pixel_values).relu().flatten(1))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch["pixel_values"]), batch["labels"])

    def configure_optimizers(self) -> Any:
        return TrueDecay((self.backbone, self.head), self.wrong)


def moves_though_frozen(model: Any) -> float:
    """How much of the frozen weights a hundred steps take away."""
    before, optimizer = model.backbone.weight.clone(), model.configure_optimizers()
    for _ in range(100):
        optimizer.step()
    return float(((model.backbone.weight - before).norm() / before.norm()).detach())


add = partial(pair_of_one_class, area="optimisation", judge=Training, draw=3, long=True)
add(
    "average_begun_anew",
    "Averaged weights are built anew after a checkpoint has brought them back",
    "m2lines/Samudra#313",
    "forecasting",
    "resume",
    Averaged,
    average_lost_in_a_restart,
    OCEAN,
    or_tests=("averaged_weights",),
    module="ema_net",
    first_run=FirstRun("039188d", found=True, named=False, said="resume fails and says `ema_net.0.weight` in its sentence only"),
)
add(
    "critic_steps_by_two_losses",
    "The gradients that the generator's loss leaves in the discriminator are not cleared before its own loss",
    "lucidrains/audiolm-pytorch#48",
    "speech",
    "accumulation",
    Codec,
    gradient_of_another_loss,
    SOUNDS,
    or_tests=("step_updates",),
    module="critic",
    status=Status.WARN,
    first_run=FirstRun(
        "039188d", found=False, named=False, said="nothing: accumulation is skipped where there are several optimizers"
    ),
)
add(
    "warm_up_of_each_epoch",
    "The warm-up counts the steps of the epoch, so that the rate falls to its start in each epoch",
    "Vision-CAIR/MiniGPT-4#263",
    "vision",
    "learning_rate_schedule",
    Classifier,
    falls_in_a_second_epoch,
    IMAGES,
    status=Status.WARN,
    line="step = batch_idx",
    unnamed="no line is named where a rate is set by hand",
    first_run=FirstRun(
        "039188d", found=False, named=False, said="skipped: a rate that is set by hand is not taken for a schedule"
    ),
)
add(
    "decay_of_frozen_weights",
    "An optimizer with a decay of its own shrinks frozen weights too",
    "open-mmlab/OpenPCDet#845",
    "vision",
    "step_updates",
    Detector,
    moves_though_frozen,
    IMAGES,
    area="state",
    module="backbone",
    first_run=FirstRun("039188d", found=True, named=True, said="step_updates fails in backbone.bias"),
)
