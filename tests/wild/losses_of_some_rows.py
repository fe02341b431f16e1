"""Reported bugs of losses in which some rows count for nothing, or all alike: the eighth draw."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.evidence import Status
from tests.planted_bugs.tier3.training import Training

from .losses_scores import Learner
from .register import FirstRun, pair_of_one_class, task_of

WORDS, WIDTH, CLASSES, TIMES = 23, 16, 4, 10
TIMED = task_of(
    inputs={"noisy": {"axes": ["batch", 6]}, "time": {"axes": ["batch"], "values": {"ids": TIMES}}},
    outputs={"velocity": {"axes": ["batch", 6], "kind": "values"}},
)
SESSIONS = task_of(
    inputs={
        "items": {"axes": ["batch", "time"], "values": {"ids": WORDS, "pad": 0}},
        "real": {"axes": ["batch", "time"], "values": {"mask_of": "time"}},
    },
    outputs={"following": {"axes": ["batch", "time", WORDS], "kind": "class_scores"}},
    axes={"time": {"min": 2, "max": 9, "padding": "left"}},
)
WEIGHTED = task_of(
    inputs={"features": {"axes": ["batch", 6]}},
    outputs={"scores": {"axes": ["batch", CLASSES], "kind": "other"}},
    labels={
        "label": {"axes": ["batch"], "values": {"ids": CLASSES}},
        "weight": {"axes": ["batch"], "values": {"range": [0.1, 2.0]}},
    },
    loss="model",
)


class Velocity(Learner):
    """A denoiser whose last time is all noise; the bug gives that time a weight of zero."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.times, self.enter, self.leave = nn.Embedding(TIMES, 6), nn.Linear(12, WIDTH), nn.Linear(WIDTH, 6)

    def forward(self, noisy: Tensor, time: Tensor) -> Tensor:
        return self.leave(self.enter(torch.cat([noisy, self.times(time)], 1)).tanh())

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        apart = (self(batch["noisy"], batch["time"]) - batch["labels"]).square().mean(1)
        return (self.weight(batch["time"]) * apart).mean()

    def weight(self, time: Tensor) -> Tensor:
        kept = torch.cos(time.float() / (TIMES - 1) * torch.pi / 2).square()
        kept = torch.where(time == TIMES - 1, torch.zeros_like(kept), kept)
        ratio = kept / (1 - kept).clamp(min=1e-3)
        return (ratio if self.wrong else ratio + 1).clamp(max=5) / (ratio + 1)


@torch.no_grad()
def last_time_without_weight(model: Any) -> float:
    """How much weight the last time lacks."""
    return max(0.0, 1 - float(model.weight(torch.tensor([TIMES - 1]))))


class Session(Learner):
    """Learns the items that follow; the bug ends the labels of a row at its first padding, and rows begin with padding."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.items, self.mix = nn.Embedding(WORDS, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, items: Tensor, real: Tensor) -> Tensor:
        x, state = self.items(items), items.new_zeros(1, len(items), WIDTH).to(self.head.weight)
        found = []
        for place in range(items.shape[1]):
            out, new = self.mix(x[:, place : place + 1], state)
            state = torch.where(real[None, :, place, None].bool(), new, state)
            found.append(out)
        return self.head(torch.cat(found, 1))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        counts = batch["labels"] != -100
        if self.wrong:
            counts = counts & (batch["items"] != 0).long().cumprod(1).bool()
        losses = F.cross_entropy(
            self(batch["items"], batch["real"]).transpose(1, 2), batch["labels"].clamp(min=0), reduction="none"
        )
        return (losses * counts).sum() / counts.sum().clamp(min=1)


def untaught_after_padding(model: Any) -> float:
    """Whether a row that begins with padding teaches nothing."""
    items, real = torch.tensor([[0, 0, 5, 6]]), torch.tensor([[0, 0, 1, 1]])
    model.training_step({"items": items, "real": real, "labels": torch.tensor([[-100, -100, 6, 7]])}, 0).backward()
    return float(model.head.weight.grad.abs().max() == 0)


class Focal(nn.Module):
    """A focal loss; the bug has a switch of its own for the mean, which nobody who sets `reduction` knows of."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.reduction, self.reduce = wrong, "mean", True

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        told = F.cross_entropy(scores, labels, reduction="none")
        losses = (1 - (-told).exp()).square() * told
        return losses.mean() if (self.reduce if self.wrong else self.reduction == "mean") else losses


class Rows(Learner):
    """A classifier of rows that have weights, with such a loss."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.criterion, self.net = Focal(wrong), nn.Sequential(nn.Linear(6, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES))

    def forward(self, features: Tensor) -> Tensor:
        return self.net(features)

    @contextlib.contextmanager
    def by_rows(self) -> Iterator[nn.Module]:
        self.criterion.reduction = "none"
        yield self.criterion
        self.criterion.reduction = "mean"

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        with self.by_rows() as criterion:
            losses = criterion(self(batch["features"]), batch["label"])
        return (losses * batch["weight"]).mean()


def taught_without_weight(model: Any) -> float:
    """The gradient at a row whose weight is zero."""
    scores = torch.randn(3, CLASSES, requires_grad=True)
    model.forward = lambda features: scores
    batch = {"features": torch.zeros(3, 6), "label": torch.arange(3), "weight": torch.tensor([1.0, 1.0, 0.0])}
    model.training_step(batch, 0).backward()
    assert scores.grad is not None
    return float(scores.grad[2].abs().max())


add = partial(pair_of_one_class, judge=Training, draw=8, long=True)
add(
    "times_without_weight",
    "The last time of a diffusion, which is all noise, has no weight in the loss",
    "huggingface/diffusers#9451",
    "diffusion",
    "training_loss[targets]",
    Velocity,
    last_time_without_weight,
    TIMED,
    or_tests=("overfits_one_batch",),
    area="losses",
    line="(ratio if self.wrong else ratio + 1)",
    first_run=FirstRun("26469ef1", found=False, named=False, said="nothing: the last time is hardly ever drawn"),
    missed="which times a loss weighs by zero is not judged",
)
add(
    "targets_end_at_the_first_padding",
    "The labels of a row end at its first padding, and rows are padded on the left",
    "LongmaoTeamTf/deep_recommenders#2",
    "recommenders",
    "training_loss[targets]",
    Session,
    untaught_after_padding,
    SESSIONS,
    or_tests=("overfits_one_batch", "training_loss[padding]"),
    area="contents",
    line="cumprod(1)",
    first_run=FirstRun(
        "26469ef1",
        found=False,
        named=False,
        said="training_loss[padding] warns, with the line of the mean, where a failure was expected",
    ),
    status=Status.WARN,
    unnamed="names the line of the mean, and not what is left out of it",
)
add(
    "reduction_that_is_not_switched",
    "A loss has a switch of its own for its mean, so that weights of rows act on the mean of all",
    "fastai/fastai#3484",
    "tables",
    "training_loss[targets]",
    Rows,
    taught_without_weight,
    WEIGHTED,
    or_tests=("accumulation",),
    area="losses",
    line="losses.mean() if",
    first_run=FirstRun(
        "26469ef1", found=True, named=False, said="accumulation fails, with the line that multiplies the mean by the weights"
    ),
    unnamed="names the line that multiplies the mean by the weights",
)
