"""Steps over several batches that are not the step over the one large batch."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.adapters import Adapter
from harness.batches import Batch
from harness.evidence import Status

from ..register import PYTORCH
from .losses import tagger
from .training import (
    CLASSES,
    FEATURES,
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
    Scores,
    Training,
    plant,
)


class MeanOfRows(Adapter):
    """The mean over rows of each row's mean, though `weight` says labels."""

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        mask = batch["labels"] != -100
        losses = F.cross_entropy(logits.transpose(1, 2), batch["labels"], reduction="none")
        return (losses.sum(1) / mask.sum(1)).mean()


class WeightedByRows(MeanOfRows):
    def weight(self, batch: Batch) -> Tensor:
        return torch.tensor(len(batch["labels"]))


class BranchForOneRow(Scores):
    """Learns nothing in its first layer from a row that comes alone, though the scores are the same."""

    def forward(self, features: Tensor) -> Tensor:
        hidden = F.gelu(self.hidden(features))
        return self.head(hidden.detach() if len(features) == 1 else hidden)


class WeightedClasses(LitScores):
    """Weights its classes; `cross_entropy` divides by the weights of the batch, the sound twin by its rows."""

    weights = torch.tensor([0.4, 1.0, 1.8])

    def __init__(self, by_rows: bool = False) -> None:
        super().__init__()
        self.by_rows = by_rows

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.by_rows:
            return F.cross_entropy(logits, labels, self.weights, reduction="none").mean()
        return F.cross_entropy(logits, labels, self.weights)


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
    """A step after every second batch, and after the last one of an epoch."""

    every = 2

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        self.manual_backward(self.loss(self(batch["features"]), batch["labels"]) / self.every)
        if batch_idx % 2 == 1 or self.ends(batch_idx):
            optimizer.step()
            optimizer.zero_grad()

    def ends(self, batch_idx: int) -> bool:
        return self.trainer.is_last_batch


class NotDivided(Every):
    every = 1


class LeftForTheNextEpoch(Every):
    def ends(self, batch_idx: int) -> bool:
        return False


class ClearedEachTime(Every):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(self(batch["features"]), batch["labels"]) / 2)
        if batch_idx % 2 == 1:
            optimizer.step()


class LitTags(lightning.LightningModule):
    """A tagger that accumulates over two batches by hand, over the mean of all their labels: a sum, divided at the step."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net = tagger()
        self.counted = 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.net(input_ids, attention_mask)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        logits, labels = self(batch["input_ids"], batch["attention_mask"]), batch["labels"]
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        self.manual_backward(self.share(losses.sum(), int((labels != -100).sum())))
        if batch_idx % 2 == 1:
            self.scale_gradients()
            optimizer.step()
            optimizer.zero_grad()

    def share(self, total: Tensor, count: int) -> Tensor:
        self.counted += count
        return total

    def scale_gradients(self) -> None:
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad /= self.counted
        self.counted = 0

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=5e-3)


class MeanOfMeansByHand(LitTags):
    def share(self, total: Tensor, count: int) -> Tensor:
        return total / count / 2

    def scale_gradients(self) -> None:
        pass


class NeverDivided(LitTags):
    def scale_gradients(self) -> None:
        pass


class Scaled(ManualScores):
    """Scales its loss by hand, as for float16."""

    def __init__(self) -> None:
        super().__init__()
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        self.manual_backward(self.scaler.scale(self.loss(self(batch["features"]), batch["labels"])))
        self.scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        self.scaler.step(optimizer)
        self.scaler.update()
        self.clear(optimizer)

    def clear(self, optimizer: Any) -> None:
        optimizer.zero_grad()


class ScaledAndNeverCleared(Scaled):
    def clear(self, optimizer: Any) -> None:
        pass


class Experts(LitScores):
    """A mixture of experts; a penalty keeps the router's scores small, row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.router = torch.nn.Linear(FEATURES, 3)
        self.experts = torch.nn.ModuleList(torch.nn.Linear(FEATURES, CLASSES) for _ in range(3))

    def forward(self, features: Tensor) -> Tensor:
        shares = self.router(features).softmax(-1)
        return torch.stack([expert(features) for expert in self.experts], -1).mul(shares[:, None]).sum(-1)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) + 0.1 * self.balance(self.router(batch["features"]))

    def balance(self, scores: Tensor) -> Tensor:
        return scores.square().sum(-1).mean()


class BalancedExperts(Experts):
    """A penalty keeps the experts equally busy, which is a statistic of the batch."""

    def balance(self, scores: Tensor) -> Tensor:
        return scores.softmax(-1).mean(0).square().sum()


class Mixed(LitScores):
    """Sound: computes in float64, and returns float32."""

    def __init__(self) -> None:
        super().__init__()
        self.double()

    def forward(self, features: Tensor) -> Tensor:
        return self.net(features.double()).float()


class MixedBatchWeights(Mixed):
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return BatchWeights.loss(self, logits, labels)  # type: ignore[arg-type]


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
    "accumulated_gradient_differs",
    UNSLOTH,
    says="gradients accumulated over small batches differ",
)
plant(
    "scale_left_to_the_next_batch",
    "accumulation",
    Training(TABLE, RunningScale),
    LIT_SCORES,
    "accumulated_gradient_differs",
    LIGHTNING,
    also=("step_updates",),
    says="gradients accumulated over two batches of 2 rows differ",
)
plant(
    "weights_of_the_batch",
    "accumulation",
    Training(TABLE, BatchWeights),
    Training(TABLE, SmoothedLabels),
    "accumulated_gradient_differs",
    UNSLOTH,
)
plant(
    "cleared_at_every_batch",
    "accumulation",
    Training(TABLE, ClearedEachTime),
    Training(TABLE, Every),
    "accumulated_gradient_differs",
    LIGHTNING,
    says="takes a step every 2 batches, and its gradient differs from that of all their rows in one batch",
)
plant(
    "not_divided_by_the_batches",
    "accumulation",
    Training(TABLE, NotDivided),
    Training(TABLE, Every),
    "accumulated_sum",
    LIGHTNING,
    says="with the sum of their gradients, 2 times that of one batch",
    status=Status.WARN,
)
plant(
    "batches_left_for_the_next_epoch",
    "accumulation",
    Training(TABLE, LeftForTheNextEpoch),
    Training(TABLE, Every),
    "left_over_from_epoch",
    LIGHTNING,
    says="whose gradient is 1.5 times as large",
    status=Status.WARN,
)
plant(
    "mean_of_means_by_hand",
    "accumulation",
    Training(TAGS, MeanOfMeansByHand),
    Training(TAGS, LitTags),
    "mean_of_means",
    UNSLOTH,
    says="takes a step every 2 batches over the mean of the batch means",
)
plant(
    "sum_never_divided",
    "training_loss[reduction]",
    Training(TAGS, NeverDivided),
    Training(TAGS, LitTags),
    "summed",
    UNSLOTH,
)
plant(
    "scaled_and_never_cleared",
    "accumulation",
    Training(TABLE, ScaledAndNeverCleared),
    Training(TABLE, Scaled),
    "gradient_not_cleared",
    f"{PYTORCH}, torch.amp.GradScaler",
)
plant(
    "balance_loss",
    "accumulation",
    Training(TABLE, BalancedExperts),
    Training(TABLE, Experts),
    "side_term_depends_on_batch",
    "Fedus et al. 2022, Switch Transformers, section 2.2",
    status=Status.WARN,
)
plant(
    "weights_of_the_batch_in_mixed_precision",
    "accumulation",
    Training(TABLE, MixedBatchWeights),
    Training(TABLE, Mixed),
    "accumulated_gradient_differs",
    UNSLOTH,
)
plant(
    "a_row_alone_has_another_gradient",
    "accumulation",
    Training(TABLE, BranchForOneRow),
    Training(TABLE, Scores),
    "accumulated_gradient_differs",
    "batch norm of PyTorch 2.13 on the CPU, met in timm's XCiT",
    says="the gradient of a row in a batch of one differs",
)
plant(
    "weights_of_the_classes_of_a_batch",
    "accumulation",
    Training(TABLE, WeightedClasses).under(accumulate_grad_batches=4),
    Training(TABLE, partial(WeightedClasses, by_rows=True)).under(accumulate_grad_batches=4),
    "mean_of_means",
    f"{PYTORCH}, cross_entropy with weight and reduction=mean",
    status=Status.WARN,
    says="divides by what the labels of a batch weigh",
)
plant("never_cleared", "accumulation", Training(TABLE, NeverCleared), MANUAL, "gradient_not_cleared", LIGHTNING)
plant("zero_grad_does_nothing", "accumulation", Training(TABLE, ClearsNothing), LIT_SCORES, "gradient_not_cleared", LIGHTNING)
plant(
    "mean_of_means",
    "accumulation",
    Training(TEXT, LitLM).under(accumulate_grad_batches=4),
    LIT_WORDS,
    "mean_of_means",
    UNSLOTH,
    status=Status.WARN,
    says="with `accumulate_grad_batches` 4 labels in short rows weigh more",
)
