"""Reported bugs of optimizers, of steps over several batches and of schedules: the fifth draw."""

from __future__ import annotations

import copy
import math
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from harness.evidence import Status
from tests.planted_bugs.tier3.training import Training

from .optimisation_averages import Recorder, network
from .optimisation_steps import Trained, configured
from .register import FirstRun, pair_of_one_class, task_of

WORDS, LENGTH, FEATURES, ACTIONS = 31, 10, 6, 4
IMAGES = task_of(task_type="image_classification", image_size=[3, 8, 8], num_classes=4)
REPLIES = task_of(task_type="sequence_classification", vocab_size=WORDS, max_seq_len=LENGTH, num_classes=3)
POLICY = task_of(
    inputs={"state": {"axes": ["batch", FEATURES]}},
    outputs={"value": {"axes": ["batch", ACTIONS], "kind": "values"}},
)
NOISY = task_of(
    inputs={"noisy": {"axes": ["batch", 6]}, "step": {"axes": ["batch"], "values": {"ids": 20}}},
    outputs={"noise": {"axes": ["batch", 6], "kind": "values"}},
)


class Decayed(Trained):
    """An image encoder; the bug decays its norms and biases like its weights."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.net = network()

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.net(pixel_values)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(self(batch["pixel_values"]), batch["labels"])

    def configure_optimizers(self) -> Any:
        if self.wrong:
            return torch.optim.AdamW(self.parameters(), lr=3e-3, weight_decay=0.1)
        flat, deep = ([p for p in self.parameters() if (p.ndim > 1) is is_deep] for is_deep in (False, True))
        return torch.optim.AdamW([{"params": flat, "weight_decay": 0.0}, {"params": deep}], lr=3e-3, weight_decay=0.1)


def decayed_biases(model: Any) -> float:
    """How many biases and gains are decayed."""
    groups = model.configure_optimizers().param_groups
    return float(sum(p.ndim == 1 for group in groups if group["weight_decay"] for p in group["params"]))


class Accumulated(Trained):
    """A classifier of texts that takes a step every two batches by hand; the bug adds their losses up."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.automatic_optimization = False
        self.words, self.mix, self.head = nn.Embedding(WORDS, 16), nn.GRU(16, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.mix(self.words(input_ids))[0].mean(1))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        loss = F.cross_entropy(self(batch["input_ids"]), batch["labels"])
        (loss if self.wrong else loss / 2).backward()
        if batch_idx % 2 == 1 or self.is_last:
            optimizer: Any = self.optimizers()
            optimizer.step()
            optimizer.zero_grad()

    @property
    def is_last(self) -> bool:
        return bool(self.trainer.is_last_batch)


def times_one_batch(model: Any) -> float:
    """How many times the gradient of a batch its two halves give, less one."""
    optimizer = Recorder(model)
    model.optimizers = lambda: optimizer
    model._trainer = type("Last", (), {"is_last_batch": False})()
    ids, labels = torch.randint(1, WORDS, (4, LENGTH)), torch.randint(3, (4,))
    F.cross_entropy(model(ids), labels).backward()
    once = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    for number, rows in enumerate((slice(0, 2), slice(2, 4))):
        model.training_step({"input_ids": ids[rows], "labels": labels[rows]}, number)
    return float(max((taken - whole).abs().max() for taken, whole in zip(optimizer.taken, once, strict=True)))


class Critic(Trained):
    """Values of actions, and a target that follows them slowly; the bug lets a copy of the target follow."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.online = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, ACTIONS))
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    def forward(self, state: Tensor) -> Tensor:
        return self.online(state)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        return F.mse_loss(self(batch["state"]), batch["labels"]) + 0.1 * F.mse_loss(
            self(batch["state"]), self.target(batch["state"])
        )

    @torch.no_grad()
    def on_train_batch_end(self, *_call: Any) -> None:
        target = copy.deepcopy(self.target) if self.wrong else self.target
        for slow, now in zip(target.parameters(), self.online.parameters(), strict=True):
            slow.lerp_(now, 0.05)


def way_left(model: Any) -> float:
    """The share of the way to the online network that the target has left after many updates."""
    with torch.no_grad():
        for parameter in model.online.parameters():
            parameter.add_(1)
    for _ in range(300):
        model.on_train_batch_end()
    return float(max((a - b).abs().max() for a, b in zip(model.target.parameters(), model.online.parameters(), strict=True)))


class Diffused(Trained):
    """Two batches a step, and a cosine of as many steps; the bug steps it at each batch."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.automatic_optimization = False
        self.steps, self.enter, self.leave = nn.Embedding(20, 16), nn.Linear(6, 16), nn.Linear(16, 6)

    def forward(self, noisy: Tensor, step: Tensor) -> Tensor:
        return self.leave((self.enter(noisy) + self.steps(step)).tanh())

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        schedule: Any = self.lr_schedulers()
        (F.mse_loss(self(batch["noisy"], batch["step"]), batch["labels"]) / 2).backward()
        if batch_idx % 2 == 1:
            optimizer.step()
            optimizer.zero_grad()
        if self.wrong or batch_idx % 2 == 1:
            schedule.step()

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        length = max(1, int(self.trainer.estimated_stepping_batches) // 2)
        return [optimizer], [LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / length)))]


def times_it_rises(model: Any) -> float:
    """How often the rate rises in a run of two epochs of twenty batches."""
    optimizers, schedules = configured(model, 2, 20)
    rates, model.optimizers, model.lr_schedulers = [], lambda: optimizers[0], lambda: schedules[0]
    batch = {"noisy": torch.randn(2, 6), "step": torch.zeros(2, dtype=torch.long), "labels": torch.randn(2, 6)}
    for number in range(40):
        model.training_step(batch, number)
        rates.append(optimizers[0].param_groups[0]["lr"])
    return float(sum(after > before + 1e-9 for before, after in pairwise(rates)))


add = partial(pair_of_one_class, judge=Training, draw=5, long=True)
add(
    "norms_and_biases_decayed",
    "Weight decay is applied to norms and biases too",
    "vturrisi/solo-learn#289",
    "vision",
    "parameter_groups[decay]",
    Decayed,
    decayed_biases,
    IMAGES,
    area="optimisation",
    status=Status.WARN,
    first_run=FirstRun("b9f3707", found=True, named=True, said="parameter_groups[decay] warns of net.1.weight"),
)
add(
    "losses_of_two_batches_added",
    "The loss of accumulated batches is not divided by their number",
    "huggingface/trl#2617",
    "text",
    "accumulation",
    Accumulated,
    times_one_batch,
    REPLIES,
    area="optimisation",
    line="(loss if self.wrong else loss / 2).backward()",
    first_run=FirstRun(
        "b9f3707", found=True, named=False, said="accumulation warns, as it does by design, with the line of the loss"
    ),
    status=Status.WARN,
    unnamed="names the line that makes the loss",
)
add(
    "target_that_never_moves",
    "Soft updates are made to a copy, so that the target network never moves",
    "AgileRL/AgileRL#464",
    "policies",
    "averaged_weights",
    Critic,
    way_left,
    POLICY,
    area="optimisation",
    module="target",
    first_run=FirstRun("b9f3707", found=False, named=False, said="nothing: a frozen copy may be meant to stay as it is"),
    missed="a frozen copy may be meant to stay as it is, as a reference policy",
)
add(
    "schedule_at_every_batch",
    "A schedule of as many steps as the optimizer takes is stepped at every batch",
    "huggingface/diffusers#1957",
    "diffusion",
    "learning_rate_schedule",
    Diffused,
    times_it_rises,
    NOISY,
    area="optimisation",
    first_run=FirstRun(
        "b9f3707",
        found=True,
        named=True,
        said="it warns, as it does by design, that the run ends at the largest rate",
    ),
    status=Status.WARN,
)
