"""What a model answered where there is a label, brought to the CPU in a form that every metric can be made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.batches import IGNORED
from harness.tasks import TaskSpec

NO_CLASS = -1
"""What logits with NaN or infinity predict; it equals no label."""

_PIECE = 1 << 24
"""Logits that are widened to float32 at a time: a vocabulary's of a whole batch may fill the memory."""


@dataclass(frozen=True)
class Answers:
    """What a model answered at the P labelled positions of R rows.

    Attributes:
        rows: R.
        row: The row of each position, int64 ``[P]``, ascending.
        labels: int64 ``[P]``; float64 for regression.
        predicted: The likeliest class, int64 ``[P]``, or ``NO_CLASS``; float64 for regression.
        loss: Cross-entropy in nats, or squared error, float64 ``[P]``; NaN where the logits hold NaN or infinity.
        log_probs: Of every class, float32 or float64 ``[P, C]``; ``None`` unless there are a few classes and one position a row.
    """

    rows: int
    row: Tensor
    labels: Tensor
    predicted: Tensor
    loss: Tensor
    log_probs: Tensor | None = None

    @property
    def correct(self) -> Tensor:
        """1 where the prediction is the label, 0 elsewhere, float64 ``[P]``."""
        return (self.predicted == self.labels).double()

    @property
    def is_broken(self) -> bool:
        """Whether there are logits with NaN or infinity."""
        return bool(self.loss.isnan().any())

    def row_means(self, values: Tensor) -> Tensor:
        """Mean over each row's positions, float64 ``[R]``; NaN for a row without any.

        Args:
            values: float64 ``[P]``.
        """
        counts = torch.bincount(self.row, minlength=self.rows)
        return torch.zeros(self.rows, dtype=torch.float64, device="cpu").index_add_(0, self.row, values) / counts

    def sequences(self) -> Iterator[tuple[list[int], list[int]]]:
        """Predicted ids and labels of each row that has any."""
        lengths = torch.bincount(self.row, minlength=self.rows).tolist()
        for predicted, labels in zip(self.predicted.split(lengths), self.labels.split(lengths), strict=True):
            if len(labels):
                yield predicted.tolist(), labels.tolist()


def answers_of(task: TaskSpec, logits: Tensor, targets: Tensor) -> Answers:
    """Compares logits with what they should have said.

    Args:
        task: What the logits mean.
        logits: ``[B, C]``, ``[B, S, C]``, or ``[B]`` for regression, on any device.
        targets: What ``targets_of`` gave.
    """
    return _numbers(logits, targets) if task.is_regression else _classes(task, logits, targets)


def widened(logits: Tensor) -> Tensor:
    """Logits in float32; those in float64 as they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _numbers(logits: Tensor, targets: Tensor) -> Answers:
    predicted, labels = widened(logits).cpu().double(), targets.cpu().double()
    error = predicted - labels
    loss = torch.where(predicted.isfinite(), error * error, torch.nan)
    return Answers(len(labels), torch.arange(len(labels), device="cpu"), labels, predicted, loss)


def _classes(task: TaskSpec, logits: Tensor, targets: Tensor) -> Answers:
    size = logits.shape[-1]
    flat_logits, flat_targets = logits.reshape(-1, size), targets.flatten().to(logits.device)
    places = (flat_targets != IGNORED).nonzero().squeeze(1)
    keeps_classes = "classes" in task.facts.output and not task.is_per_position
    predicted, loss, log_probs = [], [], []
    for piece in places.split(max(1, _PIECE // size)):
        wide = widened(flat_logits[piece])
        logs = F.log_softmax(wide, dim=-1)
        cost = -logs.gather(1, flat_targets[piece, None]).squeeze(1)
        predicted.append(torch.where(cost.isnan(), NO_CLASS, wide.argmax(dim=-1)).cpu())
        loss.append(cost.cpu())
        if keeps_classes:
            log_probs.append(logs.cpu())
    return Answers(
        rows=len(targets),
        row=(places // max(1, targets[:1].numel())).cpu(),
        labels=flat_targets[places].cpu(),
        predicted=torch.cat(predicted),
        loss=torch.cat(loss).double(),
        log_probs=torch.cat(log_probs) if keeps_classes else None,
    )
