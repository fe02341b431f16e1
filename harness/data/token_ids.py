"""Ready-made token ids: within the vocabulary, and without their padding."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.data.columns import text, whole_numbers
from harness.data.record import Record
from harness.data.tokens import Tokenizer
from harness.tasks import TaskSpec


def read_text(record: Record, name: str, tokenizer: Tokenizer | None, value: str | None = None) -> list[int]:
    """The ids of a column's text, or of a part of it.

    Raises:
        DataError: It is no text, blank, or in a file whose first row has token ids instead.
    """
    if tokenizer is None:
        raise record.refuse(f"`{name}` is text, but the first row has `input_ids`: a file has one or the other")
    return tokenizer.encode(text(record, name) if value is None else value)


def token_ids(record: Record, name: str, task: TaskSpec) -> Tensor:
    """The real tokens of a row, int64 ``[S]``."""
    return unpadded(record, name, task)[0]


def unpadded(record: Record, name: str, task: TaskSpec) -> tuple[Tensor, Tensor]:
    """The real tokens of a row, and which of its positions they are (bool).

    Padding is what ``attention_mask`` says, or without one the padding tokens at the end.
    """
    ids = checked_ids(record, name, task)
    if record.fields.get("attention_mask") is not None:
        mask = whole_numbers(record, "attention_mask")
        if mask.shape != ids.shape:
            raise record.refuse(f"{len(mask)} values of `attention_mask` for {len(ids)} `{name}`")
        real = mask.bool()
    else:
        padding = ids == task.pad_token_id if task.pad_token_id is not None else torch.zeros_like(ids).bool()
        real = ~padding.flip(0).long().cumprod(0).bool().flip(0)
    return ids[real], real


def checked_ids(record: Record, name: str, task: TaskSpec) -> Tensor:
    """Token ids within the vocabulary, int64 ``[S]``."""
    ids = whole_numbers(record, name)
    check_range(record, name, ids, task)
    return ids


def check_range(record: Record, name: str, ids: Tensor, task: TaskSpec) -> None:
    """Refuses ids outside the vocabulary."""
    # The labels of a seq2seq row are ids of its target, those of any other of its input.
    vocab = task.vocabulary_of(name if name == "input_ids" else task.causal_field)
    assert vocab is not None
    wrong = ((ids < 0) | (ids >= vocab)).nonzero().flatten()
    if len(wrong):
        at, key = int(wrong[0]), "vocab_size" if vocab == task.vocab_size else "target_vocab_size"
        raise record.refuse(f"`{name}` has {int(ids[at])} at position {at}: `{key}` {vocab} allows 0 to {vocab - 1}")
