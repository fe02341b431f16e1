"""Overlap of what a sequence-to-sequence model writes with what it should have written.

Both metrics are teacher-forced: they compare the likeliest token at each position, given the true tokens before it, with the true one.
So they are cheap and need no tokenizer, but are higher than those of a text that the model writes alone, and only comparable among
themselves. Words are token ids; positions with the label -100 are left out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics.text import BLEUScore

from harness.evaluation.answers import Answers
from harness.evaluation.metrics import Meter


class Bleu(BLEUScore):
    """BLEU of the whole data with up to 4 tokens in a row, from 0 to 1, not smoothed (Papineni et al., 2002)."""

    def __init__(self, **synchronisation: Any) -> None:
        super().__init__(**synchronisation)
        self.set_dtype(torch.float64)  # a float32 count stands still from 16 million on

    def update(self, answers: Answers) -> None:  # type: ignore[override]  # fed as the others are
        """Counts the tokens of a batch."""
        pairs = [[" ".join(map(str, ids)) for ids in pair] for pair in answers.sequences()]
        super().update([predicted for predicted, _ in pairs], [[labels] for _, labels in pairs])


class RougeL(Meter):
    """Mean over the rows of ROUGE-L: the longest common subsequence as a share of the row's tokens, from 0 to 1 (Lin, 2004).

    A row has as many predicted tokens as labels, so precision, recall and F-measure are the same.
    """

    total: Tensor
    rows: Tensor

    sums = ("total", "rows")

    def update(self, answers: Answers) -> None:
        """Adds the shares of a batch."""
        for predicted, labels in answers.sequences():
            self.total += common_subsequence(predicted, labels) / len(labels)
            self.rows += 1

    def compute(self) -> Tensor:
        """The mean."""
        return self.total / self.rows


class ErrorRate(Meter):
    """Symbols that have to be put in, left out or changed, as a share of those that are said."""

    edits: Tensor
    symbols: Tensor

    sums = ("edits", "symbols")

    def update(self, answers: Answers) -> None:
        """Adds the texts of a batch."""
        assert answers.edits is not None
        self.edits += answers.edits.sum()
        self.symbols += answers.labels.sum()

    def compute(self) -> Tensor:
        """The share; above 1 where more is found than is said."""
        return self.edits / self.symbols


def common_subsequence(first: list[int], second: list[int]) -> int:
    """Length of the longest common subsequence, by one addition of long integers a token (Hyyrö, 2004)."""
    places: dict[int, int] = {}
    for place, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << place
    every = unmatched = (1 << len(first)) - 1
    for token in second:
        matches = unmatched & places.get(token, 0)
        unmatched = ((unmatched + matches) | (unmatched - matches)) & every
    return len(first) - unmatched.bit_count()
