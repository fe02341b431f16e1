"""Metrics of a model's answers, each a torchmetrics metric: what they have in common, and those of numbers and of sequences.

The metrics of sequences are teacher-forced: they compare the likeliest token at each position, given the true tokens before it, with the
true one. So they are cheap and need no tokenizer, but are higher than those of a text that the model writes itself, and only comparable
among themselves. Words are token ids; positions with the label -100 are left out.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.text import BLEUScore

from harness.evaluation.answers import Answers


class Meter(Metric):
    """A metric whose states are sums, merged over processes by torchmetrics; its memory does not grow with the data.

    States are float64: a float32 sum stands still from 16 million on.
    """

    full_state_update = False

    sums: ClassVar[tuple[str, ...]] = ()
    """States, each the sum of what the processes found."""

    def __init__(self, shape: tuple[int, ...] = (), **synchronisation: Any) -> None:
        super().__init__(**synchronisation)
        for name in self.sums:
            self.add_state(name, torch.zeros(shape, dtype=torch.float64, device="cpu"), dist_reduce_fx="sum")

    @abstractmethod
    def update(self, answers: Answers) -> None:
        """Takes a batch into account."""

    @abstractmethod
    def compute(self) -> Tensor | None:
        """The metric, a scalar; ``None`` where it is not defined. A collective call."""


class MeanAbsoluteError(Meter):
    """Mean distance of prediction and label."""

    total: Tensor
    samples: Tensor

    sums = ("total", "samples")

    def update(self, answers: Answers) -> None:
        """Adds the distances of a batch."""
        self.total += answers.error.abs().sum()
        self.samples += len(answers.labels)

    def compute(self) -> Tensor:
        """The mean, in units of the label."""
        return self.total / self.samples


class RootMeanSquaredError(MeanAbsoluteError):
    """Root of the mean squared distance."""

    def update(self, answers: Answers) -> None:
        """Adds the squared distances of a batch."""
        self.total += answers.error.square().sum()
        self.samples += len(answers.labels)

    def compute(self) -> Tensor:
        """The root, in units of the label."""
        return (self.total / self.samples).sqrt()


class ExplainedVariance(Meter):
    """R²: the share of the labels' variance that is not left in the errors.

    That of torchmetrics takes a sum of squares below 1e-4 for zero, and so says 0 or 1 of small labels.
    """

    sums = ("errors",)

    errors: Tensor
    spread: Tensor

    def __init__(self, **synchronisation: Any) -> None:
        super().__init__(**synchronisation)
        self.add_state("spread", torch.zeros(3, dtype=torch.float64, device="cpu"), dist_reduce_fx=pooled)

    def update(self, answers: Answers) -> None:
        """Adds the squared errors and the spread of the labels of a batch."""
        if len(answers.labels):
            labels = answers.labels
            mean = labels.mean()
            spread = torch.stack([labels.new_tensor(len(labels)), mean, (labels - mean).square().sum()])
            self.errors += answers.error.square().sum()
            self.spread = pooled(torch.stack([self.spread, spread]))

    def compute(self) -> Tensor | None:
        """The share, at most 1; ``None`` for fewer than two samples, or labels that are all the same."""
        count, _, squares = self.spread
        return 1 - self.errors / squares if count >= 2 and squares > 0 else None


def pooled(parts: Tensor) -> Tensor:
    """Count, mean and sum of squared distances from the mean, of several parts together (Chan, Golub and LeVeque, 1979).

    The difference of sums of squares would lose all digits where labels are large and close together.

    Args:
        parts: Those of each part, float64 ``[K, 3]``.

    Returns:
        ``[3]``.
    """
    counts, means, squares = parts.unbind(1)
    count = counts.sum()
    mean = (counts * means).sum() / count.clamp(min=1)
    return torch.stack([count, mean, (squares + counts * (means - mean).square()).sum()])


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
