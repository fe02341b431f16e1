"""Metrics of class predictions: how many are right, and how far the model's confidence can be believed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.evaluation.answers import NO_CLASS, Answers
from harness.evaluation.meters.meter import Meter

_BINS = 15


class Accuracy(Meter):
    """Share of the labels that are predicted."""

    hits: Tensor
    labels: Tensor

    def __init__(self, **synchronisation: Any) -> None:
        super().__init__(**synchronisation)
        self.add_sums("hits", "labels")

    def update(self, answers: Answers) -> None:
        """Counts the labels of a batch."""
        self.hits += answers.correct.sum()
        self.labels += len(answers.labels)

    def compute(self) -> Tensor:
        """The share."""
        return self.hits / self.labels


class MacroF1(Meter):
    """Mean F1 of the classes that occur, as labels or as predictions; broken logits predict no class, and so miss one."""

    hits: Tensor
    labels: Tensor
    predictions: Tensor

    def __init__(self, classes: int, **synchronisation: Any) -> None:
        super().__init__(**synchronisation)
        self._classes = classes
        self.add_sums("hits", "labels", "predictions", shape=(classes,))

    def update(self, answers: Answers) -> None:
        """Counts the labels and predictions of a batch."""
        self.hits += answers.labels[answers.predicted == answers.labels].bincount(minlength=self._classes)
        self.labels += answers.labels.bincount(minlength=self._classes)
        self.predictions += answers.predicted[answers.predicted != NO_CLASS].bincount(minlength=self._classes)

    def compute(self) -> Tensor:
        """The mean."""
        either = self.labels + self.predictions
        return (2 * self.hits / either)[either > 0].mean()


class CalibrationError(Meter):
    """Expected calibration error: how far confidence and accuracy lie apart, in 15 bins of confidence (arXiv:1706.04599).

    That of torchmetrics keeps every confidence; its sums in each bin say as much.
    """

    confidence: Tensor
    hits: Tensor
    samples: Tensor

    def __init__(self, **synchronisation: Any) -> None:
        super().__init__(**synchronisation)
        self.add_sums("confidence", "hits", shape=(_BINS,))
        self.add_sums("samples")

    def update(self, answers: Answers) -> None:
        """Sorts the predictions of a batch into the bins."""
        assert answers.log_probs is not None
        confidence = answers.log_probs.double().amax(dim=-1).exp()
        edges = torch.linspace(0, 1, _BINS + 1, dtype=torch.float64, device="cpu")[1:-1]
        places = torch.bucketize(confidence, edges)
        self.confidence.index_add_(0, places, confidence)
        self.hits.index_add_(0, places, answers.correct)
        self.samples += len(confidence)

    def compute(self) -> Tensor:
        """The mean of the bins' errors, weighted with their samples; NaN where a confidence was."""
        return (self.confidence - self.hits).abs().sum() / self.samples
