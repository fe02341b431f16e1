"""Reported bugs of losses whose formula is not what was meant: a contrast, an overlap, a clipped policy."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.planted_bugs.tier3.training import Training

from .losses_batches import Trained
from .register import FirstRun, pair_of_one_class, task_of

WIDTH, CLASSES, ACTIONS = 12, 3, 4
RECORDED = task_of(
    inputs={"cells": {"axes": ["batch", 10]}},
    outputs={"point": {"axes": ["batch", 4], "kind": "embedding"}},
    labels={"later": {"axes": ["batch", 10]}},
    loss={"function": "model", "over": "batch"},
)
SEGMENTS = task_of(
    inputs={"image": {"axes": ["batch", 3, 8, 8]}},
    outputs={"classes": {"axes": ["batch", CLASSES, 8, 8], "kind": "class_scores", "classes": 1}},
)
ROLLOUTS = task_of(
    inputs={"seen": {"axes": ["batch", 6]}},
    outputs={"logits": {"axes": ["batch", ACTIONS], "kind": "other"}},
    labels={
        "action": {"axes": ["batch"], "values": {"ids": ACTIONS}},
        "advantage": {"axes": ["batch"]},
        "before": {"axes": ["batch"], "values": {"range": [-2.0, -1.0]}},
    },
    loss={"function": "model", "over": "batch"},
)


class Recorded(Trained):
    """Draws what cells did now and later together; the bug takes off the largest similarity along the other axis, to keep sums finite."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.net = nn.Sequential(nn.Linear(10, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 4))

    def forward(self, cells: Tensor) -> Tensor:
        return self.net(cells)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        alike = self(batch["cells"]) @ self(batch["later"]).T
        largest = alike.max(1).values.detach()
        return self.told(alike.diagonal(), alike, largest)

    def told(self, positive: Tensor, all_pairs: Tensor, largest: Tensor) -> Tensor:
        less = all_pairs - (largest if self.wrong else largest[:, None])
        return less.exp().sum(1).log().mean() - (positive - largest).mean()


def error_of_the_sum(model: Any) -> float:
    """How far the loss is from its formula, written with logsumexp."""
    cells, later = torch.randn(2, 6, 10)
    with torch.no_grad():
        alike = 5 * model(cells) @ model(later).T
        expected = alike.logsumexp(1).mean() - alike.diagonal().mean()
        return float((model.told(alike.diagonal(), alike, alike.max(1).values) - expected).abs())


class Segmenter(Trained):
    """A class for each pixel, trained by overlap; the bug takes the sigmoid of what is a softmax already."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, CLASSES, 1))

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        found = self(batch["image"]).softmax(1)
        if self.wrong:
            found = found.sigmoid()
        wanted = F.one_hot(batch["labels"], CLASSES).movedim(-1, 1).to(found.dtype)
        shared = (found * wanted).sum((2, 3))
        return (1 - (2 * shared + 1) / (found.square().sum((2, 3)) + wanted.sum((2, 3)) + 1)).mean()


def loss_of_a_sure_answer(model: Any) -> float:
    """The loss where the right class of each pixel is sure."""
    labels = torch.arange(64).view(1, 8, 8) % CLASSES
    model.forward = lambda image: 60.0 * F.one_hot(labels, CLASSES).movedim(-1, 1)
    return float(model.loss({"image": torch.zeros(1, 3, 8, 8), "labels": labels}))


class Clipped(Trained):
    """A clipped policy; the bug normalises the advantages when the first of the two gains was computed already."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__(wrong)
        self.net = nn.Sequential(nn.Linear(6, WIDTH), nn.Tanh(), nn.Linear(WIDTH, ACTIONS))

    def forward(self, seen: Tensor) -> Tensor:
        return self.net(seen)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        chosen = self(batch["seen"]).log_softmax(-1).gather(1, batch["action"][:, None])[:, 0]
        ratio, advantage = (chosen - batch["before"]).exp(), batch["advantage"]
        normal = (advantage - advantage.mean()) / advantage.std(unbiased=False).clamp(min=1e-6)
        first = ratio * (advantage if self.wrong else normal)
        second = ratio.clamp(0.8, 1.2) * normal
        return -torch.minimum(first, second).mean()


def change_by_scaling_advantages(model: Any) -> float:
    """How much the loss changes where all advantages are twice as large, which normalised advantages do not show."""
    batch = {"seen": torch.randn(6, 6), "action": torch.arange(6) % ACTIONS, "before": torch.full((6,), -1.4)}
    advantage = torch.randn(6)
    with torch.no_grad():
        return float((model.loss({**batch, "advantage": 2 * advantage}) - model.loss({**batch, "advantage": advantage})).abs())


add = partial(pair_of_one_class, area="losses", judge=Training, draw=3, long=True)
add(
    "largest_of_another_row",
    "What is taken off to keep a sum of exponentials finite is the largest of another row",
    "AdaptiveMotorControlLab/CEBRA#48",
    "tables",
    "training_loss[rows]",
    Recorded,
    error_of_the_sum,
    RECORDED,
    or_tests=("overfits_one_batch",),
    missed="the formula of a loss is not known, and rows are compared all the same",
    first_run=FirstRun("039188d", found=False, named=False, said="nothing: no formula is known"),
)
add(
    "sigmoid_of_a_softmax",
    "A loss of overlap takes the sigmoid of what is a softmax already",
    "Hsuxu/Loss_ToolBox-PyTorch#11",
    "vision",
    "training_loss[scores]",
    Segmenter,
    loss_of_a_sure_answer,
    SEGMENTS,
    or_tests=("overfits_one_batch",),
    first_run=FirstRun(
        "039188d", found=False, named=False, said="overfits_one_batch warns of the bug and of the twin: both learn slowly"
    ),
)
add(
    "one_gain_of_raw_advantages",
    "Advantages are normalised between the two gains of a clipped policy, so that they are compared on different scales",
    "pytorch/rl#1033",
    "policies",
    "training_loss[rows]",
    Clipped,
    change_by_scaling_advantages,
    ROLLOUTS,
    or_tests=("overfits_one_batch",),
    missed="the formula of a loss is not known, and rows are compared all the same",
    first_run=FirstRun("039188d", found=False, named=False, said="nothing: no formula is known"),
)
