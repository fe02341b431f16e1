"""Models that answer what a test tells them to, on rows that a test writes down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.adapters import Adapter, make_adapter
from harness.data import Example
from harness.data.loader import make_loader
from harness.evaluation.evaluation import Evaluation, evaluate
from harness.tasks import TaskSpec, TaskType


class Echo(nn.Module):
    """Its features are its logits."""

    def forward(self, features: Tensor) -> Tensor:
        return features


class Lookup(nn.Module):
    """The logits at a position depend on the token there alone."""

    def __init__(self, table: Tensor, field: str = "input_ids") -> None:
        super().__init__()
        self.table = nn.Parameter(table)
        self.field = field

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.table[batch[self.field]]


def classes_task(classes: int, **keys: Any) -> TaskSpec:
    return TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=classes, num_classes=classes, **keys)


def numbers_task(**keys: Any) -> TaskSpec:
    return TaskSpec(TaskType.TABULAR_REGRESSION, num_features=1, **keys)


def text_task(kind: str, size: int, **keys: Any) -> TaskSpec:
    return TaskSpec(TaskType(kind), vocab_size=size, num_classes=size, max_seq_len=64, **keys)


def judge(
    task: TaskSpec,
    rows: Any,
    model: nn.Module | None = None,
    batch_size: int = 3,
    adapter: Adapter | None = None,
    **keys: Any,
) -> Evaluation:
    loader = make_loader(rows, task, batch_size)
    return evaluate(model or Echo(), adapter or make_adapter(task), task, loader, **keys)


def echo_rows(logits: Any, labels: Sequence[float] | np.ndarray) -> list[Example]:
    """Rows whose features are the logits ``[N, C]``, with labels ``[N]``."""
    return [
        {"features": row, "labels": label}
        for row, label in zip(torch.as_tensor(logits, dtype=torch.float32), torch.as_tensor(labels), strict=True)
    ]


def random_logits(rows: int, classes: int, seed: int = 0, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Logits ``[N, C]`` that say something about the labels ``[N]``, each class of which occurs."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(classes), torch.randint(classes, (rows - classes,), generator=rng)])
    logits = torch.randn(rows, classes, generator=rng) + nn.functional.one_hot(labels, classes)
    return scale * logits, labels


def random_texts(lengths: Sequence[int], size: int, seed: int = 0) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randint(size, (length,), generator=rng) for length in lengths]


def random_table(size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, size, generator=torch.Generator().manual_seed(seed))


def cross_entropy(logits: Tensor, labels: Tensor) -> np.ndarray:
    """In nats, position by position, ``[P]``."""
    scores = logits.detach().double().numpy()
    return np.log(np.exp(scores).sum(1)) - scores[np.arange(len(labels)), labels.numpy()]
