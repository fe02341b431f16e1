"""Metrics of regression."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.evaluation.answers import Answers
from harness.evaluation.metrics import Meter


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
