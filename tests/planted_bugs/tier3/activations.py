"""Scores that a training step takes through an activation before a loss that has one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.tasks import TaskSpec, TaskType
from harness.tasks.declared import read_signature

from ..register import HUMBATOVA
from .training import CLASSES, LIT_SCORES, TABLE, LitScores, Scores, Training, plant

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


class Overlap(LitScores):
    """Trained by the overlap of what is said with the labels."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        wanted = F.one_hot(labels, CLASSES).to(logits.dtype)
        return 1 - (self.said(logits) * wanted).sum(1).mean()

    def said(self, logits: Tensor) -> Tensor:
        return logits.softmax(1)


class OverlapOfTwo(Overlap):
    """Moves the classes in between, which changes no number."""

    def said(self, logits: Tensor) -> Tensor:
        return logits.softmax(1).T.unsqueeze(0).sigmoid()[0].T


class OfLogarithms(Overlap):
    """Sound: the softmax of the logarithms of probabilities is the probabilities."""

    def said(self, logits: Tensor) -> Tensor:
        return logits.softmax(1).log().softmax(1)


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
plant(
    "sigmoid_of_a_softmax",
    "training_loss[scores]",
    Training(TABLE, OverlapOfTwo),
    Training(TABLE, OfLogarithms),
    "activation_before_loss",
    HUMBATOVA,
    says="takes a sigmoid of a softmax of an output",
)
