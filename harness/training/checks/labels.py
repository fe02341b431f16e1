"""Which logits a label is about, and what can be known of a batch's labels at all."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence

import torch
from torch import Tensor

from harness.batches import IGNORED, Batch, Sizes, make_batch
from harness.properties.subject import Subject
from harness.tasks import TaskSpec, TaskType


def aligned(task: TaskSpec, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The logits and the labels that they are for: of a causal LM, position t and token t + 1.

    Args:
        task: The task.
        logits: ``[B, C]`` or ``[B, S, C]``, or anything of that shape, such as their gradient.
        labels: ``[B]`` or ``[B, S]``.
    """
    if task.task_type is TaskType.CAUSAL_LM:
        return logits[:, :-1], labels[:, 1:]
    return logits, labels


def labelled(task: TaskSpec, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The logits ``[N, C]`` that have a label, and their labels ``[N]``."""
    logits, labels = aligned(task, logits, labels)
    counts = labels != IGNORED
    return logits[counts], labels[counts]


def fully_labelled(subject: Subject, sizes: Sizes, seed: int = 0) -> Batch:
    """A batch in which every position has a label; where the data has none, one is drawn."""
    batch = subject.batch(sizes, seed)
    drawn = make_batch(subject.task, sizes, seed)["labels"].to(batch["labels"])
    return {**batch, "labels": torch.where(batch["labels"] == IGNORED, drawn, batch["labels"])}


def guessing_loss(task: TaskSpec, batch: Batch) -> float:
    """The mean loss of the best answer that ignores the inputs: the entropy of the labels, or their variance."""
    return _loss_of_groups(task, [_labels(task, batch)])


def irreducible_loss(task: TaskSpec, batch: Batch) -> float:
    """The mean loss that no model can go below on a batch: what equal inputs with different labels leave open.

    A causal LM knows of a token what stands before it, so rows that begin alike and go on differently leave something open at the place
    where they part.
    """
    groups: dict[Hashable, list[float]] = defaultdict(list)
    for known, label in zip(_contexts(task, batch), _labels(task, batch), strict=True):
        groups[known].append(label)
    return _loss_of_groups(task, groups.values())


def _loss_of_groups(task: TaskSpec, groups: Iterable[Sequence[float]]) -> float:
    groups = [[label for label in group if task.is_regression or label != IGNORED] for group in groups]
    total = sum(map(len, groups))
    return sum(len(group) * (_variance(group) if task.is_regression else _entropy(group)) for group in groups) / max(1, total)


def _labels(task: TaskSpec, batch: Batch) -> list[float]:
    """Every label, the ignored ones too, row by row."""
    labels = batch["labels"]
    return (labels[:, 1:] if task.task_type is TaskType.CAUSAL_LM else labels).flatten().tolist()


def _contexts(task: TaskSpec, batch: Batch) -> list[Hashable]:
    """What can be known of each label, in the order of ``_labels``."""
    rows = len(batch["labels"])
    ids = [tuple(batch[name][row].flatten().tolist() for name in batch if name != "labels") for row in range(rows)]
    if not task.is_per_position:
        return [repr(row) for row in ids]
    if not task.is_causal:
        return [(repr(row), position) for row in ids for position in range(batch["labels"].shape[1])]
    tokens = batch[task.causal_field]
    source = [repr([batch[name][row].tolist() for name in ("input_ids", "attention_mask")]) for row in range(rows)]
    stop = tokens.shape[1] - (task.task_type is TaskType.CAUSAL_LM)
    return [
        (source[row] if task.is_seq2seq else "", tuple(tokens[row, : position + 1].tolist()))
        for row in range(rows)
        for position in range(stop)
    ]


def _entropy(labels: Sequence[float]) -> float:
    if not labels:
        return 0.0
    shares = torch.tensor(list(Counter(labels).values()), dtype=torch.float64) / len(labels)
    return float(-(shares * shares.log()).sum())


def _variance(labels: Sequence[float]) -> float:
    return float(torch.tensor(labels, dtype=torch.float64).var(correction=0)) if labels else 0.0
