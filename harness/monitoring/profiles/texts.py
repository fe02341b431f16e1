"""What is measured of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.data.record import Example
from harness.data.tokens import SymbolTokenizer, Tokenizer
from harness.monitoring.profiles.values import Ids, Numbers, Values
from harness.tasks import TaskSpec


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
