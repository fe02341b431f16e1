"""Metrics of classes, and of a yes or a no: how many are right, how far the confidence can be trusted, the area under the ROC curve."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from harness.evaluation.answers import NO_CLASS, Answers
from harness.evaluation.metrics import Meter

_BINS = 15


class Accuracy(Meter):
    """Share of the labels that are predicted."""

    hits: Tensor
    labels: Tensor

    sums = ("hits", "labels")

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

    sums = ("hits", "labels", "predictions")

    def __init__(self, classes: int, **synchronisation: Any) -> None:
        super().__init__((classes,), **synchronisation)
        self._classes = classes

    def update(self, answers: Answers) -> None:
        """Counts the labels and predictions of a batch."""
        self.hits += answers.labels[answers.predicted == answers.labels].bincount(minlength=self._classes)
        self.labels += answers.labels.bincount(minlength=self._classes)
        self.predictions += answers.predicted[answers.predicted != NO_CLASS].bincount(minlength=self._classes)

    def compute(self) -> Tensor:
        """The mean."""
        either = self.labels + self.predictions
        return (2 * self.hits / either)[either > 0].mean()


class MeanIou(MacroF1):
    """Mean over the classes that occur of the overlap of prediction and label, as a share of both together."""

    def compute(self) -> Tensor:
        """The mean."""
        either = self.labels + self.predictions - self.hits
        return (self.hits / either)[either > 0].mean()


class CalibrationError(Meter):
    """Expected calibration error: how far confidence and accuracy lie apart, in 15 bins of confidence (arXiv:1706.04599).

    That of torchmetrics keeps every confidence; its sums in each bin say as much.
    """

    confidence: Tensor
    hits: Tensor
    samples: Tensor

    sums = ("confidence", "hits", "samples")

    def __init__(self, **synchronisation: Any) -> None:
        super().__init__((_BINS,), **synchronisation)

    def update(self, answers: Answers) -> None:
        """Sorts the predictions of a batch into the bins."""
        assert answers.log_probs is not None
        confidence = answers.log_probs.double().amax(dim=-1).exp()
        edges = torch.linspace(0, 1, _BINS + 1, dtype=torch.float64, device="cpu")[1:-1]
        places = torch.bucketize(confidence, edges)
        self.confidence.index_add_(0, places, confidence)
        self.hits.index_add_(0, places, answers.correct)
        self.samples += places.bincount(minlength=_BINS)

    def compute(self) -> Tensor:
        """The mean of the bins' errors, weighted with their samples; NaN where a confidence was."""
        return (self.confidence - self.hits).abs().sum() / self.samples.sum()


_KEPT = 1 << 24
"""Scores (float32) that are kept, and counters (int32) that there are otherwise: 64 MiB either way."""

HALF = 0x7C00
"""Infinity in half precision, as a whole number: the order of the magnitudes is that of their bits."""


class RocArea(Meter):
    """Mean over the classes of the area under the curve of that class against the rest.

    The area is the chance that a sample of the class has a larger score than one of the rest, where equals count half (Hanley and
    McNeil, 1982); so it needs only the scores' order, which is that of the log-odds log(p / (1 - p)). These, other than probabilities,
    do not all become 0 or 1 for a confident model: evenly spaced thresholds of probability would see nothing of such a one's order.

    Up to 2^24 scores (4 million samples of 4 classes) the area is exact. Beyond, memory must not grow with the data: log-odds are
    counted as rounded to half precision (1 part in 2000, less for more than 128 classes), and what is rounded to the same counts as equal.

    Args:
        classes: How many there are.
        samples: How many there will be, of all processes.
        synchronisation: How processes share what they found.
    """

    sums = ("broken",)

    broken: Tensor
    scores: list[Tensor]
    labels: list[Tensor]
    counts: Tensor

    def __init__(self, classes: int, samples: int, **synchronisation: Any) -> None:
        super().__init__(**synchronisation)
        self._classes = classes
        self._is_exact = classes * samples <= _KEPT
        if self._is_exact:
            self.add_state("scores", [], dist_reduce_fx="cat")
            self.add_state("labels", [], dist_reduce_fx="cat")
        else:
            self._dropped_bits = _dropped_bits(classes)
            bins = (2 * HALF >> self._dropped_bits) + 1
            self.add_state("counts", torch.zeros(classes, 2, bins, dtype=torch.int32, device="cpu"), dist_reduce_fx="sum")

    def update(self, answers: Answers) -> None:
        """Keeps or counts the log-odds of a batch."""
        assert answers.log_probs is not None
        if answers.is_broken:
            self.broken += 1
        odds = log_odds(answers.log_probs[~answers.loss.isnan()])
        labels = answers.labels[~answers.loss.isnan()]
        if self._is_exact:
            self.scores.append(odds)
            self.labels.append(labels)
            return
        bins = (half_order(odds) + HALF) >> self._dropped_bits
        classes = torch.arange(self._classes, device="cpu")
        is_label = (labels[:, None] == classes).long()
        places = (2 * classes + is_label) * self.counts.shape[-1] + bins
        self.counts.view(-1).index_add_(0, places.flatten(), torch.ones(places.numel(), dtype=torch.int32, device="cpu"))

    def compute(self) -> Tensor | None:
        """The mean area; NaN where logits were broken, ``None`` where a class has no samples, or all."""
        if self.broken:
            return torch.tensor(torch.nan)
        total, undefined = torch.zeros((), dtype=torch.float64), False
        for rest, own in self._histograms():
            undefined = undefined or not rest.any() or not own.any()
            total = total + self.area(rest, own)
        return None if undefined else total / self._classes

    @staticmethod
    def area(rest: Tensor, own: Tensor) -> Tensor:
        """Area under one class's curve; NaN without samples on either side.

        Args:
            rest: Samples of the other classes at each score, ascending, ``[K]``.
            own: Samples of the class, ``[K]``.
        """
        rest, own = rest.double(), own.double()
        below = rest.cumsum(0) - rest / 2
        return (own * below).sum() / (own.sum() * rest.sum())

    def _histograms(self) -> Iterator[tuple[Tensor, Tensor]]:
        """For each class, how many samples of the rest and of its own have each score, in ascending order of scores."""
        if not self._is_exact:
            yield from (tuple(counts) for counts in self.counts)  # type: ignore[misc]
            return
        scores, labels = (torch.cat(parts) if isinstance(parts, list) else parts for parts in (self.scores, self.labels))
        for number, column in enumerate(scores.unbind(1)):
            distinct, places = column.unique(return_inverse=True)
            own, everyone = (places[chosen].bincount(minlength=len(distinct)) for chosen in (labels == number, slice(None)))
            yield everyone - own, own


def log_odds(log_probs: Tensor) -> Tensor:
    """log(p / (1 - p)) of log p, ``[P, C]``.

    Args:
        log_probs: Of all classes, ``[P, C]``.

    Returns:
        float32: what differs by less was equal before it was rounded.
    """
    logs = log_probs.double()
    # 1 - p has no digits left where p is near 1, but it is also the sum of the others.
    top = logs.argmax(dim=-1, keepdim=True)
    others = logs.scatter(1, top, -torch.inf).logsumexp(dim=-1, keepdim=True)
    odds = logs - torch.log1p(-logs.exp())
    return odds.scatter(1, top, logs.gather(1, top) - others).float()


def half_order(values: Tensor) -> Tensor:
    """Whole numbers from -31744 to 31744 in the order of the values rounded to half precision; float32 in, int64 out."""
    bits = values.half().view(torch.int16).long()
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)


def _dropped_bits(classes: int) -> int:
    """How many bits of half precision are left out, for all classes' counters to fit."""
    bits = 0
    while classes * 2 * ((2 * HALF >> bits) + 1) > _KEPT and bits < 15:
        bits += 1
    return bits


class QuestionF1(Meter):
    """Mean F1 of yes over the questions in which yes occurs, as label or as answer; a broken answer is no yes."""

    hits: Tensor
    labels: Tensor
    answers: Tensor

    sums = ("hits", "labels", "answers")

    def __init__(self, questions: int, **synchronisation: Any) -> None:
        super().__init__((questions,), **synchronisation)
        self._questions = questions

    def update(self, answers: Answers) -> None:
        """Counts the labels and answers of a batch."""
        assert answers.column is not None
        said, wanted = answers.predicted == 1, answers.labels == 1
        for counts, chosen in ((self.hits, said & wanted), (self.labels, wanted), (self.answers, said)):
            counts += answers.column[chosen].bincount(minlength=self._questions)

    def compute(self) -> Tensor | None:
        """The mean; ``None`` where there is no yes at all."""
        either = self.labels + self.answers
        return (2 * self.hits / either)[either > 0].mean() if either.any() else None


class QuestionRocArea(RocArea):
    """Mean over the questions of the area under the curve of yes against no; one that has only yes or only no does not count."""

    def update(self, answers: Answers) -> None:
        """Keeps or counts the log-odds of a batch."""
        assert answers.log_probs is not None
        assert answers.column is not None
        if answers.is_broken:
            self.broken += 1
        whole = answers.predicted != NO_CLASS
        odds = (answers.log_probs[whole, 1] - answers.log_probs[whole, 0]).float()
        kinds = 2 * answers.column[whole] + answers.labels[whole]
        if self._is_exact:
            self.scores.append(odds)
            self.labels.append(kinds)
            return
        places = kinds * self.counts.shape[-1] + ((half_order(odds) + HALF) >> self._dropped_bits)
        self.counts.view(-1).index_add_(0, places, torch.ones(len(places), dtype=torch.int32, device="cpu"))

    def compute(self) -> Tensor | None:
        """The mean area; NaN where scores were broken, ``None`` where no question has both answers."""
        if self.broken:
            return torch.tensor(torch.nan)
        areas = [self.area(rest, own) for rest, own in self._histograms() if rest.any() and own.any()]
        return torch.stack(areas).mean() if areas else None

    def _histograms(self) -> Iterator[tuple[Tensor, Tensor]]:
        if not self._is_exact:
            yield from (tuple(counts) for counts in self.counts)  # type: ignore[misc]
            return
        scores, kinds = (torch.cat(parts) if isinstance(parts, list) else parts for parts in (self.scores, self.labels))
        for question in range(self._classes):
            distinct, places = scores[kinds // 2 == question].unique(return_inverse=True)
            of_question = kinds[kinds // 2 == question]
            yield tuple(places[of_question == 2 * question + answer].bincount(minlength=len(distinct)) for answer in (0, 1))  # type: ignore[misc]
