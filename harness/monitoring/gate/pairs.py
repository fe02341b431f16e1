"""What is compared: two runs' scores of the same samples, in pairs; parts of the samples; what is known of a score by its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import ComparisonError, did_you_mean
from harness.monitoring.features.values import is_missing, level_name
from harness.wording import counted

if TYPE_CHECKING:
    from harness.data.dataset import Dataset
    from harness.evaluation.evaluation import Evaluation
    from harness.experiments.records import Scores


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


_MOST_CLASSES = 20
_LENGTHS = 4


def slices_of(data: Dataset, evaluation: Evaluation) -> dict[str, NDArray[np.str_]]:
    """A label a sample under the name of what it says: its class, and which quarter of the lengths it is in, ``[N]`` each."""
    found: dict[str, NDArray[np.str_]] = {}
    label, length = (evaluation.facts.get(name) for name in ("label", "length"))
    if label is not None and 2 <= len(np.unique(label)) <= _MOST_CLASSES:
        names = data.origin.classes.names if data.origin.classes else ()
        found["class"] = np.array([_name(int(number), names) for number in label])
    if length is not None and len(np.unique(length)) > 1:
        found["length"] = _ranges(length.astype(np.float64))
    return found


def _name(number: int, names: tuple[str, ...]) -> str:
    return names[number] if 0 <= number < len(names) else str(number)


def slices_by_columns(data: Dataset, names: Sequence[str]) -> dict[str, NDArray[np.str_]]:
    """A label a sample, ``[N]``, for each of some columns: its value, or which quarter of the numbers it is in.

    Raises:
        DataError: There is no such column.
    """
    return {name: _values(data.column(name)) for name in names}


def _values(column: Sequence[object]) -> NDArray[np.str_]:
    """Values as text; of more than 20 different numbers the quarter, of more than 20 others the 20 most frequent and the rest together."""
    said = np.array(["(empty)" if is_missing(value) or value == "" else level_name(value) for value in column])
    values, where, counts = np.unique(said, return_inverse=True, return_counts=True)
    if len(values) <= _MOST_CLASSES:
        return said
    try:
        return _ranges(said.astype(np.float64))
    except ValueError:
        rare = np.argsort(-counts, kind="stable")[_MOST_CLASSES - 1 :]
        return np.where(np.isin(where, rare), "(others)", said)


def _ranges(numbers: NDArray[np.float64]) -> NDArray[np.str_]:
    """``3-8``: the smallest and the largest number of a quarter."""
    ends = np.unique(np.quantile(numbers, np.arange(1, _LENGTHS + 1) / _LENGTHS, method="higher"))
    part = np.searchsorted(ends, numbers)
    said = [f"{numbers[part == number].min():g}-{numbers[part == number].max():g}" for number in range(len(ends))]
    return np.array(said)[part]


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
