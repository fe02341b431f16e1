"""Whether a trained model's confidence says how often it is right."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import sqrt

import torch
from torch import Tensor

from harness.analysis import Study
from harness.batches import IGNORED, to_device
from harness.data.loader import Loader
from harness.evaluation.answers import answers_of, check_logits, targets_of, widened
from harness.evidence import Evidence
from harness.properties.subject import Subject

_NAME = "calibration"
_MOST_ROWS = 2_000
_FEWEST_ROWS, _FEWEST_LABELS = 30, 100
_BINS = 15
_MOST_SORTED = 1 << 20
_RESAMPLES = 1_000
_REDRAWS = 200
_PERCENT = 0.01
"""Confidence is read in percent; an error below one is none."""

_LEVEL = 0.005
"""Of the lower end of the interval, by the bootstrap over rows."""

_CAUSE = (
    "logits multiplied, or not divided, by a temperature, training long past the best validation loss, or data unlike the training data; a "
    "temperature fitted on held-out rows repairs it"
)


def calibration(study: Study) -> Evidence:
    """The confidence of a trained model is worth more than its accuracy said every time; or its error is within the user's tolerance.

    The calibration error is the root mean square of confidence less accuracy over bins of equal mass, with the bias of few labels a bin taken
    off (Kumar et al. 2019, Verified Uncertainty Calibration). Without a tolerance it is held to the spread of the accuracy over the bins, or a
    percent: where it is larger, the Brier score of the confidence is worse than that of a constant (Murphy 1973). A model that is right more
    often than it says, as any that learnt its task well, must be nearer to a guess than to its accuracy as well. Warns only when the lower end
    of the bootstrap interval is beyond that too, and labels drawn as likely as the model says never show such an error.
    """
    subject = study.subject
    if subject.fresh_weights:
        return Evidence.skipped(_NAME, "the model is not trained, so its confidence means nothing yet")
    if study.labelled is None:
        return Evidence.skipped(_NAME, "`eval` names no rows with labels")
    answered = _answer(subject, study.labelled)
    rows, labels = answered.rows, len(answered.confidence)
    if rows < _FEWEST_ROWS or labels < _FEWEST_LABELS:
        message = (
            f"{labels} labels in {rows} rows of `eval` are too few: {_FEWEST_LABELS} labels in {_FEWEST_ROWS} rows are needed"
        )
        return Evidence.skipped(_NAME, message)
    if not bool(answered.confidence.isfinite().all()):
        return Evidence.skipped(_NAME, "logits on the rows of `eval` are not finite (see finite_output)")
    tolerance = subject.task.tolerances.get(_NAME)
    bins = answered.binned()
    error, spread = bins.error, bins.spread
    confidence, accuracy = float(answered.confidence.mean()), float(answered.correct.mean())
    is_modest = confidence < accuracy
    floor = max(_PERCENT, (accuracy - 1 / (subject.task.output_size or 1)) / 2 if is_modest else 0.0)
    bound = max(spread, floor) if tolerance is None else tolerance
    figures = f"mean confidence {confidence:.1%}, accuracy {accuracy:.1%} on {labels} labels"
    facts = {"confidence": confidence, "accuracy": accuracy, "labels": labels, "rows": rows, "spread_of_accuracy": spread}
    shown = f"{rows} rows of `eval`"
    if not bins.surely_beyond(tolerance, floor) or answered.is_as_likely_as_said(error):
        message = f"confidence is off by {error:.3f} ({figures})"
        return Evidence.ok(_NAME, message, (error, bound, "of 1"), counterexample=shown, details=facts)
    code = "underconfident" if is_modest else "overconfident" if confidence > accuracy else "wrongly_confident"
    worth = "is closer to a guess than to its accuracy" if is_modest else "says less than its accuracy does"
    which = "" if tolerance is not None else f", so its confidence {worth}"
    message = f"the model is {code.replace('_', ' ')} by {error:.3f}{which}: {figures}"
    return Evidence.warned(_NAME, message, (error, bound, "of 1"), counterexample=shown, cause=_CAUSE, details=facts, code=code)


@dataclass(frozen=True)
class _Answered:
    """What a model said at P labels of R rows.

    Attributes:
        rows: R.
        row: The row of each label, int64 ``[P]``.
        confidence: Probability of the class it chose, float64 ``[P]``.
        correct: Whether that was the label, float64 ``[P]``.
    """

    rows: int
    row: Tensor
    confidence: Tensor
    correct: Tensor

    @cached_property
    def bins(self) -> Tensor:
        """The bin of each label by its confidence, int64 ``[P]``; the bins hold equally many."""
        inner = torch.linspace(0, 1, _BINS + 1, dtype=torch.float64)[1:-1]
        edges = self.confidence[:: 1 + len(self.confidence) // _MOST_SORTED].quantile(inner)
        return torch.bucketize(self.confidence, edges)

    def is_as_likely_as_said(self, error: float) -> bool:
        """Whether an error may come of labels that are right as often as the model says (Bröcker and Smith 2007)."""
        rng = torch.Generator().manual_seed(0)
        counts, confidence = (self._by_bin(values) for values in (torch.ones_like(self.correct), self.confidence))
        for _ in range(_REDRAWS):
            drawn = (torch.rand(self.confidence.shape, generator=rng, dtype=torch.float64) < self.confidence).double()
            if float(_square_error(counts, confidence, self._by_bin(drawn))) >= error**2:
                return True
        return False

    def _by_bin(self, values: Tensor) -> Tensor:
        return torch.zeros(_BINS, dtype=torch.float64).index_add_(0, self.bins, values)

    def binned(self) -> _Bins:
        """Sums of each row in each bin."""
        place = self.row * _BINS + self.bins

        def sums(values: Tensor) -> Tensor:
            return torch.zeros(self.rows * _BINS, dtype=torch.float64).index_add_(0, place, values).unflatten(0, (-1, _BINS))

        return _Bins(sums(torch.ones_like(self.correct)), sums(self.confidence), sums(self.correct))


@dataclass(frozen=True)
class _Bins:
    """Sums of each row in each bin, float64 ``[R, bins]``.

    Attributes:
        counts: Labels.
        confidence: Their confidence.
        correct: How many of them are right.
    """

    counts: Tensor
    confidence: Tensor
    correct: Tensor

    @property
    def error(self) -> float:
        """Root mean square of confidence less accuracy, debiased."""
        counts, confidence, correct = (sums.sum(0) for sums in (self.counts, self.confidence, self.correct))
        return sqrt(max(0.0, float(_square_error(counts, confidence, correct))))

    @property
    def spread(self) -> float:
        """Standard deviation of the accuracy over the bins, debiased."""
        counts, correct = self.counts.sum(0), self.correct.sum(0)
        return sqrt(max(0.0, float(_square_spread(counts, correct))))

    def surely_beyond(self, tolerance: float | None, floor: float) -> bool:
        """Whether the error is beyond the tolerance, or the spread and a floor, in nearly every sample of the rows."""
        rng = torch.Generator().manual_seed(0)
        picks = torch.randint(len(self.counts), (_RESAMPLES, len(self.counts)), generator=rng)
        ones = torch.ones(picks.shape, dtype=torch.float64)
        weights = torch.zeros_like(ones).scatter_add_(1, picks, ones)
        counts, confidence, correct = (weights @ sums for sums in (self.counts, self.confidence, self.correct))
        excess = _excess(counts, confidence, correct, tolerance, floor)
        # A resample's own error holds the sampling noise twice, which the centre of the interval is freed of.
        centre = _excess(self.counts.sum(0), self.confidence.sum(0), self.correct.sum(0), tolerance, floor)
        return bool(centre - (excess.median() - excess.quantile(_LEVEL)) > 0)


def _excess(counts: Tensor, confidence: Tensor, correct: Tensor, tolerance: float | None, floor: float) -> Tensor:
    """By how much the square of the error is beyond that of what it is held to."""
    error = _square_error(counts, confidence, correct)
    return error - (_square_spread(counts, correct).clamp(min=floor**2) if tolerance is None else tolerance**2)


def _square_error(counts: Tensor, confidence: Tensor, correct: Tensor) -> Tensor:
    share, accuracy = _share_and_accuracy(counts, correct)
    gap = confidence / counts.clamp(min=1) - accuracy
    return (share * (gap**2 - _chance(counts, accuracy))).sum(-1)


def _square_spread(counts: Tensor, correct: Tensor) -> Tensor:
    share, accuracy = _share_and_accuracy(counts, correct)
    mean = (share * accuracy).sum(-1, keepdim=True)
    return (share * ((accuracy - mean) ** 2 - _chance(counts, accuracy))).sum(-1)


def _share_and_accuracy(counts: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
    return counts / counts.sum(-1, keepdim=True), correct / counts.clamp(min=1)


def _chance(counts: Tensor, accuracy: Tensor) -> Tensor:
    """The variance of an accuracy over so few labels."""
    return accuracy * (1 - accuracy) / (counts - 1).clamp(min=1)


def _answer(subject: Subject, loader: Loader) -> _Answered:
    """What the model says on the labelled rows."""
    model, task = subject.fresh(), subject.task
    rows, parts = 0, list[tuple[Tensor, Tensor, Tensor]]()
    for batch in loader:
        there = to_device(batch, subject.device, subject.dtype) | {"labels": batch["labels"].to(subject.device)}
        first = rows
        targets = targets_of(task, there, lambda row, first=first: f"row {first + row + 1} of `eval`")  # type: ignore[misc]
        logits = subject.logits(there, model)
        check_logits(task, logits, targets)
        answers = answers_of(task, logits, targets)
        labelled = widened(logits)[targets != IGNORED]
        confidence = labelled.double().softmax(-1).amax(-1).cpu()
        parts.append((answers.row + rows, confidence, answers.correct))
        rows += answers.rows
        if rows >= _MOST_ROWS:
            break
    row, confidence, correct = (torch.cat(column) for column in zip(*parts, strict=True))
    return _Answered(rows, row, confidence, correct)
