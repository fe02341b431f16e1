"""What a model should have answered, and where: a batch's labels, checked and put beside the logits they belong to."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from harness.batches import IGNORED, Batch
from harness.errors import DataError, OutputError
from harness.tasks import TaskSpec, TaskType


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
