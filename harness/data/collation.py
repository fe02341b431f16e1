"""Examples of different lengths as one batch: padded, with masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from harness.batches import IGNORED, Batch
from harness.data.id_space import filler
from harness.data.record import Example
from harness.tasks import TaskSpec


def collate(task: TaskSpec, examples: Sequence[Example], length: int | None = None) -> Batch:
    """Pads on the right and stacks.

    Padded positions hold the padding token (0 where the task has none), ``attention_mask`` 0 and label -100.

    Args:
        task: What the fields hold.
        examples: One or more rows with the same fields.
        length: Tokens to pad every sequence to; by default as many as the longest row has.

    Returns:
        The fields of ``harness.batches``, with ``labels``.
    """
    batch = {
        name: _stack([example[name] for example in examples], _fill(task, name), max(length or 0, _least(task, name)))
        for name in examples[0]
    }
    if "input_ids" in batch:
        ids = batch["input_ids"]
        lengths = torch.tensor([len(example["input_ids"]) for example in examples])
        batch["attention_mask"] = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return {name: batch[name] for name in (*task.facts.inputs, "labels") if name in batch}


def _least(task: TaskSpec, name: str) -> int:
    """Tokens that a field is padded to at least: what the model takes."""
    along_the_source = name == "input_ids" or (name == "labels" and task.is_per_position and not task.is_seq2seq)
    return task.min_seq_len if task.is_text and along_the_source else 0


def _fill(task: TaskSpec, name: str) -> int | None:
    """What pads a field; ``None`` for one that is never padded."""
    if not task.is_text:
        return None
    return IGNORED if name == "labels" else filler(task)


def _stack(rows: Sequence[Tensor], fill: int | None, length: int | None) -> Tensor:
    if fill is None or rows[0].ndim == 0:
        return torch.stack(list(rows))
    longest = max(length or 0, *(len(row) for row in rows))
    stacked = rows[0].new_full((len(rows), longest), fill)
    for row, tokens in zip(stacked, rows, strict=True):
        row[: len(tokens)] = tokens
    return stacked
