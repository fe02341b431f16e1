"""Reported bugs of averaged weights, and of steps over several batches."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.evidence import Status
from tests.planted_bugs.tier3.training import Training

from .register import pair_of_one_class, task_of

WORDS, LENGTH = 31, 10
IMAGES = task_of(task_type="image_classification", image_size=[3, 8, 8], num_classes=4)
TAGS = task_of(task_type="token_classification", vocab_size=WORDS, max_seq_len=LENGTH, pad_token_id=0, num_classes=5)
REPLIES = task_of(task_type="sequence_classification", vocab_size=WORDS, max_seq_len=LENGTH, pad_token_id=0, num_classes=5)


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)
    )


class MeanTeacher(lightning.LightningModule):
    """A student, and a teacher that is its average and answers; the bug averages parameters only."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.student = network()
        self.teacher = self.begin().requires_grad_(False)

    def begin(self) -> nn.Module:
        return copy.deepcopy(self.student)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return (self.student if self.training else self.teacher)(pixel_values)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.student(batch["pixel_values"]), batch["labels"])

    @torch.no_grad()
    def on_train_batch_end(self, *_call: Any) -> None:
        for mean, now in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            mean.mul_(0.9).add_(now, alpha=0.1)
        if not self.wrong:
            for mean, now in zip(self.teacher.buffers(), self.student.buffers(), strict=True):
                mean.copy_(now)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.student.parameters(), lr=3e-3)


def teacher_apart(model: Any) -> float:
    """How far the teacher's answers are from those of a student whose weights it has, once the student has seen images."""
    images = 3 * torch.randn(16, 3, 8, 8) + 2
    for _ in range(60):
        model.student(images)
        model.on_train_batch_end()
    model.teacher.load_state_dict(dict(model.student.named_parameters()), strict=False)
    with torch.no_grad():
        return float((model.eval().teacher(images) - model.student(images)).abs().max())


class Accumulated(lightning.LightningModule):
    """A tagger that takes a step every two batches by hand, over the mean of all their labels; the bug takes the mean of their means."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.automatic_optimization = wrong, False
        self.words, self.mix, self.head = nn.Embedding(WORDS, 16), nn.GRU(16, 16, batch_first=True), nn.Linear(16, 5)
        self.count = 0

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.mix(self.words(input_ids))[0])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        labels = batch["labels"].flatten()
        loss = F.cross_entropy(self(batch["input_ids"]).flatten(0, 1), labels, ignore_index=-100, reduction="sum")
        count = int((labels != -100).sum())
        self.count += count
        (loss / count / 2 if self.wrong else loss).backward()
        if batch_idx % 2 == 1 or self.is_last:
            self.take_step()

    def take_step(self) -> None:
        optimizer: Any = self.optimizers()
        for parameter in self.parameters() if not self.wrong else ():
            if parameter.grad is not None:
                parameter.grad /= self.count
        optimizer.step()
        optimizer.zero_grad()
        self.count = 0

    @property
    def is_last(self) -> bool:
        return bool(self.trainer.is_last_batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


class Recorder:
    """An optimizer that takes down the gradients of its step."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.taken = model, list[Tensor]()

    def step(self) -> None:
        self.taken = [p.grad.clone() for p in self.model.parameters() if p.grad is not None]

    def zero_grad(self) -> None:
        self.model.zero_grad()


def apart_from_one_batch(model: Any) -> float:
    """How far the gradient of two batches with unequally many labels is from that of both in one."""
    optimizer = Recorder(model)
    model.optimizers = lambda: optimizer
    model._trainer = type("Last", (), {"is_last_batch": False})()
    ids, labels = torch.randint(1, WORDS, (4, LENGTH)), torch.randint(5, (4, LENGTH))
    labels[2:, 3:] = -100
    for number, rows in enumerate((slice(0, 2), slice(2, 4))):
        model.training_step({"input_ids": ids[rows], "labels": labels[rows]}, number)
    loss = F.cross_entropy(model(ids).flatten(0, 1), labels.flatten(), ignore_index=-100)
    wanted = torch.autograd.grad(loss, [*model.parameters()])
    return max(float((a - b).abs().max()) for a, b in zip(wanted, optimizer.taken, strict=True))


class Summed(Accumulated):
    """Chooses a reply to a text; the bug adds the gradients of two batches up."""

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.words(input_ids).mul((input_ids != 0)[..., None]).sum(1))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        loss = F.cross_entropy(self(batch["input_ids"]), batch["labels"])
        (loss if self.wrong else loss / 2).backward()
        if batch_idx % 2 == 1 or self.is_last:
            self.take_step()

    def take_step(self) -> None:
        optimizer: Any = self.optimizers()
        optimizer.step()
        optimizer.zero_grad()


def larger_than_one_batch(model: Any) -> float:
    """How much larger the gradient of the same batch twice is than that of the batch."""
    optimizer = Recorder(model)
    model.optimizers = lambda: optimizer
    model._trainer = type("Last", (), {"is_last_batch": False})()
    ids, labels = torch.randint(1, WORDS, (3, LENGTH)), torch.randint(5, (3,))
    loss = F.cross_entropy(model(ids), labels)
    wanted = [each for each in torch.autograd.grad(loss, [*model.parameters()], allow_unused=True) if each is not None]
    for number in range(2):
        model.training_step({"input_ids": ids, "labels": labels}, number)
    sizes = [torch.cat([each.flatten() for each in found]).norm() for found in (optimizer.taken, wanted)]
    return float(sizes[0] / sizes[1] - 1)


add = partial(pair_of_one_class, area="optimisation", judge=Training)
add(
    "teacher_without_running_statistics",
    "The teacher averages the student's parameters, and keeps batch norms of mean 0 and variance 1",
    "CuriousAI/mean-teacher#9",
    "vision",
    "averaged_weights",
    MeanTeacher,
    teacher_apart,
    IMAGES,
    module="teacher",
)
add(
    "mean_of_the_means_of_batches",
    "Accumulated batches are averaged one by one, so words of short texts weigh more",
    "huggingface/transformers#24725",
    "text",
    "accumulation",
    Accumulated,
    apart_from_one_batch,
    TAGS,
)
add(
    "sum_of_batches",
    "Gradients of accumulated batches are added up, so the step grows with their number",
    "facebookresearch/ParlAI#1833",
    "text",
    "accumulation",
    Summed,
    larger_than_one_batch,
    REPLIES,
    status=Status.WARN,
)
