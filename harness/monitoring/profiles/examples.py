"""Blocks of the examples of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.adapters import Adapter
from harness.batches import IGNORED
from harness.data.dataset import Rows, Stream
from harness.data.encoding import Encoder
from harness.data.record import Example
from harness.monitoring.profiles.images import image_values
from harness.monitoring.profiles.labels import label_values
from harness.monitoring.profiles.texts import text_values
from harness.monitoring.profiles.values import Block, Numbers, Values
from harness.tasks import TaskSpec

Measure = Callable[[Sequence[Example]], Mapping[str, Values]]


def example_blocks(dataset: Iterable[Example], measures: Sequence[Measure], batch_size: int) -> Iterator[Block]:
    """The examples of a dataset, measured some at a time."""
    rows = iter(dataset) if not isinstance(dataset, Rows) else (dataset[index] for index in range(len(dataset)))
    while examples := list(islice(rows, batch_size)):
        values = {name: found for measure in measures for name, found in measure(examples).items()}
        yield Block(len(examples), values, unlabelled=_unlabelled(examples))


def _unlabelled(examples: Sequence[Example]) -> NDArray[np.bool_] | None:
    """The rows whose one label is not known, where others have one."""
    if any("labels" not in example or example["labels"].ndim for example in examples):
        return None
    found = np.array([not example["labels"].is_floating_point() and int(example["labels"]) == IGNORED for example in examples])
    return found if found.any() else None


def measures_of(task: TaskSpec, encoder: Encoder, model: Any = None, adapter: Adapter | None = None) -> list[Measure]:
    """What is measured of the examples of a task: inputs, labels, and where there is a model its outputs."""
    inputs: Measure = {
        "text": lambda examples: text_values(task, encoder.tokenizer, examples),
        "vision": image_values,
        "tabular": lambda examples: _table_values(encoder.columns, examples),
    }[task.facts.modality]
    measures = [inputs, lambda examples: label_values(task, encoder.classes, examples)]
    if model is not None:
        from harness.monitoring.profiles.outputs import OutputMeter

        measures.append(OutputMeter(model, task, adapter, encoder.classes))
    return measures


def meta_of(task: TaskSpec, encoder: Encoder) -> dict[str, Any]:
    """What windows must have in common with their reference."""
    tokenizer = encoder.tokenizer
    return {
        "modality": task.facts.modality,
        "task_type": task.task_type.value,
        "vocab_size": task.vocab_size if task.is_text else None,
        "tokenizer": tokenizer and tokenizer.fingerprint,
    }


def encoder_of(dataset: Any, task: TaskSpec) -> Encoder:
    """What made the examples of a dataset; a plain one where that is not known."""
    return dataset.origin.encoder if isinstance(dataset, (Rows, Stream)) else Encoder(task)


def _table_values(columns: Sequence[str], examples: Sequence[Example]) -> Mapping[str, Values]:
    table = np.stack([example["features"].numpy() for example in examples]).astype(np.float64)
    names = columns or [f"feature_{number}" for number in range(table.shape[1])]
    return {name: Numbers(np.ascontiguousarray(column)) for name, column in zip(names, table.T, strict=True)}
