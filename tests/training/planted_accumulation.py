"""Steps over several batches that are not the step over the one large batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.adapters import Adapter
from harness.batches import Batch

from .planted import (
    LIGHTNING,
    LIT_SCORES,
    LIT_WORDS,
    MANUAL,
    TABLE,
    TAGS,
    TEXT,
    UNSLOTH,
    LitLM,
    LitScores,
    ManualScores,
    Training,
    plant,
)
from .planted_losses import tagger


class MeanOfRows(Adapter):
    """The mean over rows of each row's mean, though `weight` says labels."""

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        mask = batch["labels"] != -100
        losses = F.cross_entropy(logits.transpose(1, 2), batch["labels"], reduction="none")
        return (losses.sum(1) / mask.sum(1)).mean()


class WeightedByRows(MeanOfRows):
    def weight(self, batch: Batch) -> Tensor:
        return torch.tensor(len(batch["labels"]))


class RunningScale(LitScores):
    """Divides by a mean of the losses so far, which one batch leaves to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running", torch.tensor(1.0))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        loss = super().loss(logits, labels)
        self.running.mul_(0.9).add_(0.1 * loss.detach())
        return loss / self.running


class BatchWeights(LitScores):
    """Weights the classes by how often the batch has them."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        weight = 1 / torch.bincount(labels, minlength=3).clamp(min=1).to(logits.dtype)
        return F.cross_entropy(logits, labels, weight=weight, reduction="sum") / weight[labels].sum()


class SmoothedLabels(LitScores):
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=0.05)


class Every(ManualScores):
    """A step after every second batch."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        self.manual_backward(self.loss(self(batch["features"]), batch["labels"]) / 2)
        if batch_idx % 2 == 1:
            optimizer.step()
            optimizer.zero_grad()


class ClearedEachTime(Every):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(self(batch["features"]), batch["labels"]) / 2)
        if batch_idx % 2 == 1:
            optimizer.step()


class NeverCleared(ManualScores):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        self.manual_backward(self.loss(self(batch["features"]), batch["labels"]))
        optimizer.step()


class ClearsNothing(LitScores):
    def optimizer_zero_grad(self, *_arguments: Any) -> None:
        pass


plant(
    "weights_that_do_not_fit_the_mean",
    "accumulation",
    Training(TAGS, tagger, MeanOfRows),
    Training(TAGS, tagger, WeightedByRows),
    "give another gradient than it",
    UNSLOTH,
)
plant(
    "scale_left_to_the_next_batch",
    "accumulation",
    Training(TABLE, RunningScale),
    LIT_SCORES,
    "two batches of 2 rows give another gradient",
    LIGHTNING,
    also=("step_updates",),
)
plant(
    "weights_of_the_batch",
    "accumulation",
    Training(TABLE, BatchWeights),
    Training(TABLE, SmoothedLabels),
    "two batches of 2 rows give another gradient",
    UNSLOTH,
)
plant(
    "cleared_at_every_batch",
    "accumulation",
    Training(TABLE, ClearedEachTime),
    Training(TABLE, Every),
    "takes a step after 2 batches, and its gradient is not that of their rows at once",
    LIGHTNING,
)
plant("never_cleared", "accumulation", Training(TABLE, NeverCleared), MANUAL, "is still there at the second", LIGHTNING)
plant("zero_grad_does_nothing", "accumulation", Training(TABLE, ClearsNothing), LIT_SCORES, "does not clear it", LIGHTNING)
plant(
    "mean_of_means",
    "accumulation",
    Training(TEXT, LitLM).under(accumulate_grad_batches=4),
    LIT_WORDS,
    "with `accumulate_grad_batches` 4 the labels of short rows count for more",
    UNSLOTH,
    status="warn",
)
