"""Reported bugs of steps, rates and averages: the eighth draw."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

from harness.evidence import Status
from tests.planted_bugs.tier3.training import Training

from .losses_scores import Learner
from .register import FirstRun, pair_of_one_class, task_of

WIDTH, CLASSES, PAST, NODES = 16, 4, 12, 6
SERIES = task_of(inputs={"history": {"axes": ["batch", PAST]}}, outputs={"next": {"axes": ["batch", 3], "kind": "values"}})
GRAPHS = task_of(
    inputs={"nodes": {"axes": ["batch", NODES, 3]}}, outputs={"scores": {"axes": ["batch", CLASSES], "kind": "class_scores"}}
)
NOISY = task_of(inputs={"noisy": {"axes": ["batch", 6]}}, outputs={"noise": {"axes": ["batch", 6], "kind": "values"}})


class Forecast(Learner):
    """A forecast with a rate for each epoch; the bug asks the first rate, and not the list, whether it is a list."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.rates, self.net = [1e-2, 5e-3, 1e-3], nn.Sequential(nn.Linear(PAST, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 3))

    def forward(self, history: Tensor) -> Tensor:
        return self.net(history)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return F.mse_loss(self(batch["history"]), batch["labels"])

    def configure_optimizers(self) -> Any:
        rates = self.rates
        rate = rates[0] if isinstance(rates, list) else rates
        optimizer = torch.optim.AdamW(self.parameters(), lr=rate)
        if isinstance(rate if self.wrong else rates, list):
            schedule = LambdaLR(optimizer, lambda epoch: rates[min(epoch, len(rates) - 1)] / rate)
        else:
            schedule = LambdaLR(optimizer, lambda epoch: 1.0)
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def rate_of_the_third_epoch(model: Any) -> float:
    """How many times too high the rate of the third epoch is."""
    found = model.configure_optimizers()
    for _ in range(2):
        found["optimizer"].step()
        found["lr_scheduler"].step()
    return float(found["optimizer"].param_groups[0]["lr"]) / 1e-3 - 1


class Decaying(Learner):
    """Takes a step every two batches, with a decay of its own; the bug decays at every batch."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.automatic_optimization = False
        self.enter, self.head = nn.Linear(3, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, nodes: Tensor) -> Tensor:
        return self.head(self.enter(nodes).relu().mean(1))

    @torch.no_grad()
    def decay(self) -> None:
        for parameter in self.parameters():
            parameter.mul_(1 - 1e-2 * 0.1)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.manual_backward(F.cross_entropy(self(batch["nodes"]), batch["labels"]) / 2)
        ends = batch_idx % 2 == 1 or self.trainer.is_last_batch
        if self.wrong or ends:
            self.decay()
        if ends:
            optimizer: Any = self.optimizers()
            optimizer.step()
            optimizer.zero_grad()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-2)


def decayed_without_a_step(model: Any) -> float:
    """How far weights move in a batch after which no step is taken."""
    model.optimizers, model.manual_backward = lambda: None, lambda loss: loss.backward()
    model._trainer = type("Last", (), {"is_last_batch": False})()
    before = [each.detach().clone() for each in model.parameters()]
    model.training_step({"nodes": torch.randn(4, NODES, 3), "labels": torch.arange(4)}, 0)
    return 100 * max(float((a - b).detach().abs().max()) for a, b in zip(model.parameters(), before, strict=True))


class Stepped(Learner):
    """Takes a step every four batches under a cosine of as many steps; the bug moves the cosine on at every batch."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.automatic_optimization = False
        self.net = nn.Sequential(nn.Linear(6, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 6))

    def forward(self, noisy: Tensor) -> Tensor:
        return self.net(noisy)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.manual_backward(F.mse_loss(self(batch["noisy"]), batch["labels"]) / 4)
        schedule: Any = self.lr_schedulers()
        if self.wrong:
            schedule.step()
        if batch_idx % 4 == 3 or self.trainer.is_last_batch:
            optimizer: Any = self.optimizers()
            optimizer.step()
            optimizer.zero_grad()
            if not self.wrong:
                schedule.step()

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        steps = max(1, int(self.trainer.estimated_stepping_batches) // 4)
        return {"optimizer": optimizer, "lr_scheduler": CosineAnnealingLR(optimizer, T_max=steps)}


def schedule_without_steps(model: Any) -> float:
    """How often the schedule moves in four batches, beyond the one step."""
    moved: list[int] = []
    model.lr_schedulers = lambda: type("Schedule", (), {"step": lambda self: moved.append(1)})()
    quiet = type("Optimizer", (), {"step": lambda self: None, "zero_grad": lambda self: None})()
    model.optimizers, model.manual_backward = lambda: quiet, lambda loss: loss.backward()
    model._trainer = type("Last", (), {"is_last_batch": False})()
    for number in range(4):
        model.training_step({"noisy": torch.randn(2, 6), "labels": torch.randn(2, 6)}, number)
    return float(len(moved) - 1)


class Averaged(Learner):
    """Is validated with averaged weights; the bug trains on with them."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.net = nn.Sequential(nn.Linear(6, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 6))
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        self.stored: dict[str, Tensor] = {}

    def forward(self, noisy: Tensor) -> Tensor:
        return self.net(noisy)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return F.mse_loss(self(batch["noisy"]), batch["labels"])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("validation", F.mse_loss(self(batch["noisy"]), batch["labels"]))

    @torch.no_grad()
    def on_train_batch_end(self, *_call: Any) -> None:
        for slow, fast in zip(self.average.parameters(), self.net.parameters(), strict=True):
            slow.lerp_(fast, 0.1)

    def on_validation_start(self) -> None:
        self.stored = copy.deepcopy(self.net.state_dict())
        self.net.load_state_dict(self.average.state_dict())

    def on_validation_end(self) -> None:
        if not self.wrong:
            self.net.load_state_dict(self.stored)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.net.parameters(), lr=1e-2)


@torch.no_grad()
def weights_after_validation(model: Any) -> float:
    """How far the weights are moved by a validation."""
    before = copy.deepcopy(model.net[0].weight)
    model.average[0].weight.add_(1)
    model.on_validation_start()
    model.on_validation_end()
    return float((model.net[0].weight - before).abs().max())


add = partial(pair_of_one_class, judge=Training, draw=8, long=True)
add(
    "list_of_rates_never_read",
    "A list of rates by epoch is replaced by its first before it is asked whether it is a list",
    "sktime/pytorch-forecasting#905",
    "forecasting",
    "learning_rate_schedule",
    Forecast,
    rate_of_the_third_epoch,
    SERIES,
    area="optimisation",
    line="isinstance(rate if self.wrong else rates, list)",
    status=Status.WARN,
    first_run=FirstRun(
        "26469ef1",
        found=False,
        named=False,
        said="nothing: learning_rate_schedule says that the rate goes from 0.01 over 0.01 to 0.01",
    ),
    missed="a schedule that leaves the rate as it is may be wanted",
)
add(
    "decay_at_every_batch",
    "Weights decay at every batch, where a step is taken every few of them",
    "keras-team/keras#19990",
    "graphs",
    "accumulation",
    Decaying,
    decayed_without_a_step,
    GRAPHS,
    area="optimisation",
    line="parameter.mul_(",
    first_run=FirstRun("26469ef1", found=True, named=False, said="accumulation fails, with the line of the loss"),
    unnamed="names the line of the backward pass: any change of a gradient is told there",
)
add(
    "schedule_stepped_by_batches",
    "A schedule moves on at every batch, where a step is taken every few of them",
    "sgl-project/SpecForge#364",
    "diffusion",
    "learning_rate_schedule",
    Stepped,
    schedule_without_steps,
    NOISY,
    area="optimisation",
    line="schedule.step()",
    first_run=FirstRun(
        "26469ef1", found=False, named=False, said="learning_rate_schedule warns, with the line, where a failure was expected"
    ),
    status=Status.WARN,
)
add(
    "average_left_after_validation",
    "Averaged weights that a validation was made with stay, and are trained on",
    "huggingface/diffusers#7549",
    "diffusion",
    "validation_pass",
    Averaged,
    weights_after_validation,
    NOISY,
    area="state",
    line="self.net.load_state_dict(self.average.state_dict())",
    first_run=FirstRun("26469ef1", found=True, named=False, said="validation_pass fails in net.0.weight, without a line"),
    unnamed="names the weight, and not the hook that swaps it",
)
