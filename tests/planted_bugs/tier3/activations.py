"""Scores that a training step takes through an activation before a loss that has one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.tasks import TaskSpec, TaskType
from harness.tasks.declared import read_signature

from ..register import HUMBATOVA
from .training import LIT_SCORES, TABLE, LitScores, Scores, Training, plant

SEVERAL = TaskSpec(
    TaskType.TABULAR_CLASSIFICATION,
    declared=read_signature(
        {
            "inputs": {"features": {"axes": ["batch", 6]}},
            "outputs": {"tags": {"axes": ["batch", 5], "kind": "binary_scores"}},
        }
    ),
)


class LitTagged(LitScores):
    """Several labels a row."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Scores(5)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, labels.float())


class SigmoidTwice(LitTagged):
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().loss(logits.sigmoid(), labels)


class WeightedTags(LitTagged):
    """Sound: a rare label counts more."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, labels.float(), pos_weight=torch.full((5,), 3.0))


class ReluFirst(LitScores):
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().loss(logits.relu(), labels)


class TanhFirst(LitScores):
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().loss(logits.tanh(), labels)


TAGGED = Training(SEVERAL, LitTagged)

for name, buggy, sound, says in (
    ("sigmoid_twice", Training(SEVERAL, SigmoidTwice), Training(SEVERAL, WeightedTags), "output `tags` through a sigmoid"),
    ("relu_before_the_loss", Training(TABLE, ReluFirst), LIT_SCORES, "through a ReLU"),
    ("tanh_before_the_loss", Training(TABLE, TanhFirst), LIT_SCORES, ""),
):
    plant(
        name,
        "training_loss[scores]",
        buggy,
        sound,
        "activation_before_loss",
        HUMBATOVA,
        says=says,
        also=("overfits_one_batch",),
    )
