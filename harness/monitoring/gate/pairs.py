"""What is compared: two runs' scores of the same samples, in pairs; parts of the samples; what is known of a score by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import ComparisonError, did_you_mean
from harness.experiments.records import Scores
from harness.wording import counted

_FEWEST = 2


@dataclass(frozen=True)
class Pairs:
    """Scores of samples that have one, of both runs.

    Attributes:
        baseline: float64 ``[n]``.
        candidate: float64 ``[n]``.
        higher_is_better: What a greater score means.
        labelled: Which of the dataset's N samples these are, bool ``[N]``.
        groups: The number of the group that each belongs to, ``[n]``; ``None`` where samples are independent.
    """

    baseline: NDArray[np.float64]
    candidate: NDArray[np.float64]
    higher_is_better: bool
    labelled: NDArray[np.bool_]
    groups: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, baseline: Scores, candidate: Scores, higher_is_better: bool, groups: NDArray[np.int64] | None = None) -> Pairs:
        """Pairs the scores of two runs; a sample whose score is NaN in both has no label and is left out.

        Args:
            baseline: Scores of the one run.
            candidate: Of the other.
            higher_is_better: What a greater score means.
            groups: The number of each sample's group, ``[N]``.

        Raises:
            ComparisonError: The scores are of other samples, or too few, or not finite in one of the runs; or all are of one group.
        """
        _check_same_samples(baseline, candidate)
        before, after = baseline.values, candidate.values
        labelled = ~np.isnan(before)
        _check_values(candidate.metric, before, after)
        if labelled.sum() < _FEWEST:
            raise ComparisonError(
                f"scores of {candidate.metric!r}: {counted(int(labelled.sum()), 'sample')} with a label; "
                f"a comparison needs at least {_FEWEST}"
            )
        if groups is not None and groups.shape != before.shape:
            raise ComparisonError(f"groups: expected one for each of {len(before):,} samples, got shape {list(groups.shape)}")
        own = None if groups is None else groups[labelled]
        if own is not None and (own == own[0]).all():
            raise ComparisonError(
                f"scores of {candidate.metric!r}: all samples with a label are of one group; a comparison needs at least 2"
            )
        return cls(before[labelled].astype(np.float64), after[labelled].astype(np.float64), higher_is_better, labelled, own)

    def part(self, chosen: NDArray[np.intp]) -> Pairs:
        """Some of the pairs, by their places among them."""
        groups = None if self.groups is None else self.groups[chosen]
        return Pairs(self.baseline[chosen], self.candidate[chosen], self.higher_is_better, self.labelled, groups)

    @cached_property
    def units(self) -> int:
        """How many of them are independent: the samples, or their groups."""
        return len(self) if self.groups is None else len(np.unique(self.groups))

    def __len__(self) -> int:
        return len(self.baseline)

    @cached_property
    def worsening(self) -> NDArray[np.float64]:
        """By how much the candidate is worse on each sample, ``[n]``; negative where it is better."""
        return self.baseline - self.candidate if self.higher_is_better else self.candidate - self.baseline

    @cached_property
    def is_right_or_wrong(self) -> bool:
        """Whether every score is 0 or 1."""
        return all(bool(((scores == 0) | (scores == 1)).all()) for scores in (self.baseline, self.candidate))


def _check_same_samples(baseline: Scores, candidate: Scores) -> None:
    if baseline.dataset != candidate.dataset:
        raise ComparisonError(
            f"the evaluation sets differ: the baseline's {baseline.metric!r} was scored on {baseline.dataset!r}, the candidate's on "
            f"{candidate.dataset!r}; evaluate both on one set"
        )
    before, after = len(baseline.values), len(candidate.values)
    if before != after:
        raise ComparisonError(
            f"the evaluation sets differ: the baseline has scores of {baseline.metric!r} for {counted(before, 'sample')}, the "
            f"candidate for {after:,}; evaluate both on one set"
        )
    if not before:
        raise ComparisonError(f"no scores of {baseline.metric!r} are stored: evaluate both runs on a set that holds samples")


def _check_values(metric: str, before: NDArray[np.floating], after: NDArray[np.floating]) -> None:
    unpaired = np.isnan(after) & ~np.isnan(before)
    _refuse(unpaired, f"no {metric!r} in the candidate, but one in the baseline")
    unpaired = np.isnan(before) & ~np.isnan(after)
    _refuse(unpaired, f"no {metric!r} in the baseline, but one in the candidate")
    _refuse(np.isinf(after), f"an infinite {metric!r} in the candidate")
    _refuse(np.isinf(before), f"an infinite {metric!r} in the baseline")


def _refuse(wrong: NDArray[np.bool_], fault: str) -> None:
    if wrong.any():
        count = int(wrong.sum())
        raise ComparisonError(
            f"{counted(count, 'sample')} of {len(wrong):,} {'has' if count == 1 else 'have'} {fault} (the first is sample "
            f"{int(wrong.argmax())}): the logits were not finite there, or the labels differ"
        )


FEWEST_IN_SLICE = 20
"""Below as many samples, or groups of them, a slice shows nothing but a collapse, and would only take from the level of the others."""

SliceLabels = Mapping[str, NDArray[Any]]
"""A label a sample, ``[N]``, under the name of what is labelled: ``{"class": classes, "length": buckets}``."""


@dataclass(frozen=True)
class Sliced:
    """The slices of some pairs.

    Attributes:
        parts: The pairs of each slice by its name, such as ``class=7``.
        left_out: How many slices hold too few samples.
    """

    parts: dict[str, Pairs]
    left_out: int

    @classmethod
    def of(cls, pairs: Pairs, labels: SliceLabels) -> Sliced:
        """Cuts pairs into slices, once for each kind of label.

        Raises:
            ComparisonError: There is not one label a sample.
        """
        parts: dict[str, Pairs] = {}
        left_out = 0
        for name, given in labels.items():
            for value, places in _places(_labels(name, given, pairs)):
                part = pairs.part(places)
                if part.units < FEWEST_IN_SLICE:
                    left_out += 1
                else:
                    parts[f"{name}={value}"] = part
        return cls(parts, left_out)


def _labels(name: str, given: NDArray[Any], pairs: Pairs) -> NDArray[Any]:
    labels = np.asarray(given)
    if labels.shape != pairs.labelled.shape:
        raise ComparisonError(
            f"slices of {name!r}: expected a label for each of {len(pairs.labelled):,} samples, got shape {list(labels.shape)}"
        )
    return labels[pairs.labelled]


def _places(labels: NDArray[Any]) -> list[tuple[Any, NDArray[np.intp]]]:
    """Each label, and where it is; the labels sorted."""
    values, which = np.unique(labels, return_inverse=True)
    order = np.argsort(which, kind="stable")
    ends = np.searchsorted(which[order], np.arange(1, len(values)))
    return list(zip(values.tolist(), np.split(order, ends), strict=True))


SHARE_MARGIN = 0.005
"""Half a point, the default margin of shares of right answers.

A true fall of one point should fail. On 5,000 samples of which 4% change, the fall that is seen strays from the true one by 0.3 points
(standard deviation), so a margin above 0.6 would let more than one such fall in ten pass. A margin below 0.5 would add nothing there: at an
alpha of 0.05 a fall is significant from 0.47 points. On fewer samples significance is the harder key, on more samples the margin is.
"""

SPREAD_MARGIN = 0.02
"""The default margin of other scores, in standard deviations of the baseline's scores over the samples.

It does not depend on the score's unit or its zero, and of a model with 93% right answers it is half a point as well.
"""


@dataclass(frozen=True)
class ScoreKind:
    """A kind of score.

    Attributes:
        label: What its mean is called.
        higher_is_better: What a greater one means.
        is_share: Whether its mean is a share of right answers, which is told in points of a hundred.
    """

    label: str
    higher_is_better: bool
    is_share: bool

    def default_margin(self, metric: str, pairs: Pairs) -> float:
        """The margin where the user gives none.

        Raises:
            ComparisonError: None follows from a baseline whose scores are all equal.
        """
        if self.is_share:
            return SHARE_MARGIN
        if not np.ptp(pairs.baseline):
            raise ComparisonError(f"the baseline's {metric!r} is the same everywhere, so no margin follows from it: give one")
        return SPREAD_MARGIN * float(pairs.baseline.std())


# A mean over samples is another number than a mean over all tokens, which is what an evaluation calls `loss` and `accuracy`.
_KINDS = {
    "loss": ScoreKind("loss per sample", higher_is_better=False, is_share=False),
    "squared_error": ScoreKind("squared error", higher_is_better=False, is_share=False),
    "absolute_error": ScoreKind("absolute error", higher_is_better=False, is_share=False),
    "correct": ScoreKind("accuracy", higher_is_better=True, is_share=True),
    "accuracy": ScoreKind("accuracy per sample", higher_is_better=True, is_share=True),
    "error_rate": ScoreKind("error rate per sample", higher_is_better=False, is_share=False),
}


def _known(metric: str) -> ScoreKind | None:
    """The kind of a score by its name, behind that of an output where there are several."""
    output, _, name = metric.rpartition(".")
    kind = _KINDS.get(name)
    return replace(kind, label=f"{kind.label} of {output}") if kind is not None and output else kind


def kind_of(metric: str, pairs: Pairs) -> ScoreKind:
    """The kind of a score whose direction is known; of other names, by its values."""
    known = _known(metric) or ScoreKind(metric, pairs.higher_is_better, pairs.is_right_or_wrong)
    return replace(known, higher_is_better=pairs.higher_is_better)


def direction_of(metric: str, given: Mapping[str, bool]) -> bool:
    """Whether a greater score is better.

    Raises:
        ComparisonError: Neither the user nor the name says so.
    """
    if metric in given:
        return given[metric]
    known = _known(metric)
    if known is None:
        raise ComparisonError(
            f"is a greater {metric!r} better?{did_you_mean(metric, _KINDS)} Known are {', '.join(_KINDS)}; of others say it with "
            f"`higher_is_better={{{metric!r}: True}}`, or leave it out of `metrics`"
        )
    return known.higher_is_better
