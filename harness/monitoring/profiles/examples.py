"""Blocks of the examples of a task: what is measured of texts, images, tables and labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.adapters import Adapter
from harness.batches import IGNORED
from harness.data.columns import Classes
from harness.data.dataset import Rows, Stream
from harness.data.encoding import Encoder
from harness.data.record import Example
from harness.data.tokens import SymbolTokenizer, Tokenizer
from harness.monitoring.features.values import Block, Ids, Numbers, Values
from harness.tasks import TaskSpec, TaskType

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


def text_values(task: TaskSpec, tokenizer: Tokenizer | None, examples: Sequence[Example]) -> Mapping[str, Values]:
    """Tokens; and of each row its length in tokens, the share of distinct ones, and where a tokenizer has a word for it of unknown ones.

    Args:
        task: What the examples are for.
        tokenizer: What read the texts.
        examples: With ``input_ids``, not padded.
    """
    rows = [example["input_ids"].numpy() for example in examples]
    measured = {"tokens": tokens_of(rows, task.vocab_size or 0), "length": lengths_of(rows)}
    measured["distinct_tokens"] = _by_row(rows, [len(np.unique(row)) for row in rows])
    if isinstance(tokenizer, SymbolTokenizer):
        unknown = tokenizer.ids.free[0]
        measured["out_of_vocabulary"] = _by_row(rows, [int((row == unknown).sum()) for row in rows])
    return measured


def tokens_of(rows: Sequence[NDArray[np.integer]], size: int) -> Values:
    """The ids of several rows, which belong together by row."""
    ids = np.concatenate([np.empty(0, np.int64), *rows]).astype(np.int64)
    return Ids(ids, size, rows=np.repeat(np.arange(len(rows)), [len(row) for row in rows]))


def lengths_of(rows: Sequence[NDArray[np.integer]]) -> Values:
    """How many ids each row has."""
    return Numbers(np.array([len(row) for row in rows], np.float64))


def _by_row(rows: Sequence[NDArray[np.integer]], counts: Sequence[int]) -> Values:
    lengths = np.array([len(row) for row in rows], np.float64)
    return Numbers(np.divide(counts, lengths, out=np.full(len(rows), np.nan), where=lengths > 0))


def image_values(examples: Sequence[Example]) -> Mapping[str, Values]:
    """Brightness, contrast and sharpness of each image, and mean and standard deviation of each channel.

    Brightness is the mean of the grey image (the mean of its channels), contrast its standard deviation, sharpness the variance of its
    Laplacian (Pech-Pacheco et al. 2000); images of less than three pixels a side have none.

    Args:
        examples: With ``pixel_values`` ``[C, H, W]``.
    """
    measured = [_measure(example["pixel_values"].numpy().astype(np.float64)) for example in examples]
    return {name: Numbers(np.array([values[name] for values in measured])) for name in measured[0]}


def _measure(pixels: np.ndarray) -> dict[str, float]:
    """Of one image at a time, so that no number depends on the images beside it."""
    grey = pixels.mean(axis=0)
    measured = {"brightness": grey.mean(), "contrast": grey.std()}
    if min(grey.shape) > 2:
        around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
        measured["sharpness"] = (around - 4 * grey[1:-1, 1:-1]).var()
    for number, channel in enumerate(pixels):
        measured[f"channel_{number}.mean"] = channel.mean()
        measured[f"channel_{number}.std"] = channel.std()
    return measured


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
