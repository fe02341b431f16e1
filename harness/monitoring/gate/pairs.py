"""Two runs' scores of the same samples, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.monitoring.errors import ComparisonError
from harness.wording import counted

if TYPE_CHECKING:
    from harness.experiments.records import Scores

FEWEST = 2


@dataclass(frozen=True)
class Pairs:
    """Scores of samples that have one, of both runs.

    Attributes:
        baseline: float64 ``[n]``.
        candidate: float64 ``[n]``.
        higher_is_better: What a greater score means.
        labelled: Which of the dataset's N samples these are, bool ``[N]``.
    """

    baseline: NDArray[np.float64]
    candidate: NDArray[np.float64]
    higher_is_better: bool
    labelled: NDArray[np.bool_]

    @classmethod
    def of(cls, baseline: Scores, candidate: Scores, higher_is_better: bool) -> Pairs:
        """Pairs the scores of two runs; a sample whose score is NaN in both has no label and is left out.

        Raises:
            ComparisonError: The scores are of other samples, or too few, or not finite in one of the runs.
        """
        _check_same_samples(baseline, candidate)
        before, after = baseline.values, candidate.values
        labelled = ~np.isnan(before)
        _check_values(candidate.metric, before, after)
        if labelled.sum() < FEWEST:
            raise ComparisonError(
                f"scores of {candidate.metric!r}: {counted(int(labelled.sum()), 'sample')} with a label; "
                f"a comparison needs at least {FEWEST}"
            )
        return cls(before[labelled].astype(np.float64), after[labelled].astype(np.float64), higher_is_better, labelled)

    def part(self, chosen: NDArray[np.intp]) -> Pairs:
        """Some of the pairs, by their places among them."""
        return Pairs(self.baseline[chosen], self.candidate[chosen], self.higher_is_better, self.labelled)

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
