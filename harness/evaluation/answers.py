"""What a model answered where there is a label, beside what it should have answered, as all metrics need it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.batches import IGNORED, Batch
from harness.errors import DataError, OutputError
from harness.tasks import TaskSpec, TaskType

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


def targets_of(task: TaskSpec, batch: Batch, name_row: Callable[[int], str]) -> Tensor:
    """The label each of the logits is judged by.

    Args:
        task: What the labels mean.
        batch: With ``labels``.
        name_row: From a row of the batch to its name in messages.

    Returns:
        Class ids ``[B]`` or ``[B, S]`` (int64), -100 where there is nothing to judge; for regression the numbers, ``[B]``. Those of a
        causal LM are moved one to the left, to the logits that predict them.

    Raises:
        DataError: There are no labels, or they are not of the task's kind or range; the first such row is named.
    """
    if "labels" not in batch:
        raise DataError("the evaluation data has no `labels`: nothing to compare the model's output with")
    labels = batch["labels"]
    axes = task.facts.output if task.is_regression else task.facts.output[:-1]
    if labels.ndim != len(axes):
        raise DataError(f"`labels` have shape {list(labels.shape)}, {task.task_type.value} needs [{', '.join(axes)}]")
    if task.is_regression:
        _refuse(labels, ~labels.isfinite(), name_row, "not a finite number")
        return labels
    if labels.is_floating_point() or labels.is_complex():
        raise DataError(f"`labels` are {labels.dtype}, {task.task_type.value} needs class ids as whole numbers")
    labels = labels.long()
    if task.task_type is TaskType.CAUSAL_LM:
        labels = torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], IGNORED)], dim=1)
    classes = task.output_size
    if classes is not None:
        is_wrong = (labels != IGNORED) & ((labels < 0) | (labels >= classes))
        _refuse(labels, is_wrong, name_row, f"out of range: the ids go from 0 to {classes - 1}, and {IGNORED} is left out")
    return labels


def check_logits(task: TaskSpec, logits: Tensor, targets: Tensor) -> None:
    """Refuses logits that are not what the task promises.

    Raises:
        OutputError: They have another shape, or are no floating-point numbers.
    """
    if not logits.is_floating_point():
        raise OutputError(f"logits are {logits.dtype}, not floating point")
    size = task.output_size or (logits.shape[-1] if logits.ndim else 0)
    expected = tuple(targets.shape) if task.is_regression else (*targets.shape, size)
    if tuple(logits.shape) != expected:
        raise OutputError(
            f"logits have shape {list(logits.shape)}, expected {list(expected)} for [{', '.join(task.facts.output)}]"
        )


def _refuse(labels: Tensor, is_wrong: Tensor, name_row: Callable[[int], str], why: str) -> None:
    places = is_wrong.nonzero()
    if len(places):
        label = labels[tuple(places[0])].item()
        raise DataError(f"{name_row(int(places[0, 0]))}: label {label} is {why}")
