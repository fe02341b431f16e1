"""What is measured of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from harness.batches import IGNORED
from harness.data.columns import Classes
from harness.data.record import Example
from harness.monitoring.profiles.texts import lengths_of, tokens_of
from harness.monitoring.profiles.values import Ids, Numbers, Values
from harness.tasks import TaskSpec, TaskType

_THEMSELVES = (TaskType.CAUSAL_LM, TaskType.MASKED_LM)


def label_values(task: TaskSpec, classes: Classes | None, examples: Sequence[Example]) -> Mapping[str, Values]:
    """Classes, target numbers or target tokens; nothing for tasks whose labels are their inputs, or rows without labels.

    Args:
        task: What the examples are for.
        classes: What its classes are called.
        examples: With or without ``labels``.
    """
    if task.task_type in _THEMSELVES or any("labels" not in example for example in examples):
        return {}
    if task.is_regression:
        return {"label": Numbers(np.array([float(example["labels"]) for example in examples], np.float64))}
    names = classes.names if classes else ()
    if not task.is_per_position:
        ids = _learnt(
            np.array([int(example["labels"]) for example in examples], np.int64)
        )  # a label that is to come is not missing
        return {"label": Ids(ids, task.num_classes or 0, names=names)}
    rows = [_learnt(example["labels"].numpy()) for example in examples]
    if task.is_seq2seq:
        return {"label.tokens": tokens_of(rows, task.output_size or 0), "label.length": lengths_of(rows)}
    of_rows = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    return {"label": Ids(np.concatenate(rows).astype(np.int64), task.num_classes or 0, of_rows, names)}


def _learnt(labels: np.ndarray) -> np.ndarray:
    return labels[labels != IGNORED]
