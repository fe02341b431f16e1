"""Where two recordings of one computation diverge: the first wrong value that was computed from correct ones.

Nothing is matched by name, as exporters rename, fold and fuse. A value of one recording is right when the other holds an equal one,
whatever its shape. From the logits the search goes back through values that have no equal, to those all of whose inputs have one. Such a
value may still be innocent, an intermediate that the other side never had. So each suspect is tried: the computation is run again with
the right value in its place, and only if what follows is then right is it to blame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from torch import Tensor

from harness.export.blame.comparison import Comparison, comparisons, is_telling, relative_gap
from harness.export.blame.recording import Trace

_MOST_TRIALS, _LIKELY, _NEXT, _JOINS, _CHAIN, _CONVINCING = 40, 4, 2, 3, 12, 3

_CLEAN = 1e-4
"""Up to this relative difference, logits put right are so but for rounding. Where it is larger, a better trial may follow."""

_IDENTITIES = ("Identity", "aten.alias.default", "aten.clone.default", "aten.detach.default")

Rerun = Callable[[int, Tensor], "Trace | None"]
"""Runs the artifact again with another tensor in place of a value; ``None`` where that is not possible."""


@dataclass(frozen=True)
class Divergence:
    """The first value that is wrong.

    Attributes:
        expected: The value that the artifact lacks, by its index in the reference.
        found: The value in its place, by its index in the artifact.
        right: What ``found`` should hold, in its shape.
        segment: The artifact's values from right inputs to ``found``; more than one where none in between can be told right or wrong.
        lacking: The reference's values from right inputs to ``expected``, which the artifact lacks.
        tolerance: Relative difference from which values count as different.
        confirmed: Whether what follows is right once ``found`` is put right.
        absent: Whether the artifact has nothing in its place: ``found`` is what comes before.
        surplus: Whether the model reads ``right`` there as it is, so that what made ``found`` of it is too much.
    """

    expected: int
    found: int
    right: Tensor
    segment: tuple[int, ...]
    lacking: tuple[int, ...]
    tolerance: float
    confirmed: bool
    absent: bool = False
    surplus: bool = False


class _Trial(NamedTuple):
    """A value of the artifact to put right; see ``Divergence``."""

    expected: int
    found: int
    right: Tensor
    absent: bool = False
    surplus: bool = False


def find_divergence(reference: Trace, artifact: Trace, rerun: Rerun) -> Divergence | None:
    """The first value of an artifact that is wrong; ``None`` where its logits are the reference's, or no value stands out."""
    compared = comparisons(reference, artifact)
    for comparison in compared:
        found = _first_success(comparison, rerun)
        if found is not None:
            return _narrowed(comparison, *found, rerun)
    if not compared:
        return None
    best = compared[0]
    expected, start = best.expected.starts[0], best.found.starts[0]
    right = reference.values[expected].tensor
    return Divergence(expected, start, right, (start,), (expected,), best.tolerance, confirmed=False)


def _first_success(comparison: Comparison, rerun: Rerun) -> tuple[_Trial, bool] | None:
    """The first trial that puts the logits right, or else the values that follow; and whether it is the logits."""
    best: tuple[_Trial, bool] | None = None
    least, patience = comparison.tolerance, _MOST_TRIALS
    for trial in _trials(comparison):
        again = _run_again(comparison, trial, rerun)
        if again is None:
            continue
        remaining = comparison.remaining(again)
        if remaining <= least:
            best, least = (trial, True), remaining
        if remaining <= min(_CLEAN, comparison.tolerance):
            break
        # What comes before a missing operator has other readers, some of which a wrong value may not disturb.
        followers = _right_followers(comparison, trial, again) if best is None and not trial.absent else 0
        if followers:
            # Where a fault comes up again later on, the logits stay wrong. One value that is right may be so by chance.
            best, patience = (trial, False), min(patience, _CHAIN)
        patience = 0 if followers >= _CONVINCING else patience - 1
        if not patience:
            break
    return best


def _run_again(comparison: Comparison, trial: _Trial, rerun: Rerun) -> Trace | None:
    again = rerun(trial.found, trial.right)
    return again if again is not None and len(again.values) == len(comparison.artifact.values) else None


def _right_followers(comparison: Comparison, trial: _Trial, again: Trace) -> int:
    """How many values computed from one that was put right are right too, which they were not before."""
    computed = comparison.artifact.made_from([trial.found], comparison.found.wrong)
    followers = [again.values[index] for index in computed if index != trial.found]
    telling = [value.tensor for value in followers if not value.passes_on and is_telling(value.tensor)]
    return comparison.count_right(telling[:_CHAIN], trial.expected)


def _trials(comparison: Comparison) -> Iterator[_Trial]:
    """Values to put right, likeliest first: those where the wrong begins, those before a missing operator, those that follow."""
    first = comparison.expected.starts[0]
    pairs = _pairs(comparison)
    likely = [pair for pair in pairs if pair[0] == first and not comparison.artifact.values[pair[1]].passes_on][:_LIKELY]
    for expected, found in likely:
        yield _trial(comparison, expected, found)
    for expected in (*_computed(comparison.reference, first, comparison.expected.wrong)[:_NEXT], *_joins(comparison, first)):
        for found in _before_missing(comparison, expected):
            yield _trial(comparison, expected, found, absent=not _stands_for(comparison, expected, found))
    for expected, found in pairs:
        if (expected, found) not in likely:
            yield _trial(comparison, expected, found)


def _trial(comparison: Comparison, expected: int, found: int, absent: bool = False, surplus: bool = False) -> _Trial:
    like = comparison.artifact.values[found].tensor
    return _Trial(
        expected, found, comparison.reference.values[expected].tensor.reshape(like.shape).to(like.dtype), absent, surplus
    )


def _pairs(comparison: Comparison) -> list[tuple[int, int]]:
    """Wrong values of the artifact beside those of the reference that they may stand for, nearest to where the wrong begins first."""
    reference, artifact = comparison.reference, comparison.artifact
    ranked: dict[tuple[int, int], int] = {}
    for expected_rank, expected_start in enumerate(comparison.expected.starts[:2]):
        starts = sorted(comparison.found.starts, key=lambda found: not comparison.same_place(expected_start, found))[:3]
        lefts = _computed(reference, expected_start, comparison.expected.wrong)
        for found_rank, found_start in enumerate(starts):
            rights = _computed(artifact, found_start, comparison.found.wrong)
            for (i, left), (j, right) in product(enumerate(lefts), enumerate(rights)):
                if reference.values[left].tensor.numel() == artifact.values[right].tensor.numel():
                    rank = i + j + 2 * (expected_rank + found_rank)
                    ranked[left, right] = min(rank, ranked.get((left, right), rank))
    return sorted(ranked, key=lambda pair: ranked[pair])[:_MOST_TRIALS]


def _computed(trace: Trace, start: int, among: list[int]) -> list[int]:
    """A start and the first values computed from it; what only moves values need not be tried, the computation before it is."""
    later = trace.made_from([start], among)
    return [index for index in later if index == start or not trace.values[index].passes_on][:_CHAIN]


def _joins(comparison: Comparison, first: int) -> list[int]:
    """Values made from ``first`` and something right of the same size: with the operator, an exporter may have dropped the whole branch."""
    reference, wrong = comparison.reference, set(comparison.expected.wrong)

    def is_join(index: int) -> bool:
        value = reference.values[index]
        others = [reference.values[i] for i in value.inputs if i not in wrong and not reference.values[i].given]
        return index != first and any(other.tensor.numel() == value.tensor.numel() for other in others)

    return list(filter(is_join, reference.made_from([first], wrong)))[:_JOINS]


def _before_missing(comparison: Comparison, expected: int) -> list[int]:
    """The artifact's values that equal one from which ``expected`` is made: what is left in its place where operators are missing."""
    reference, artifact = comparison.reference, comparison.artifact
    wanted, sources = (
        reference.values[expected].tensor,
        [reference.values[index].tensor for index in _sources(comparison, expected)],
    )
    found = [
        index
        for index in artifact.live
        if artifact.values[index].operator
        and artifact.values[index].tensor.numel() == wanted.numel()
        and artifact.values[index].tensor.is_floating_point() == wanted.is_floating_point()
        and any(relative_gap(source, artifact.values[index].tensor) <= comparison.tolerance for source in sources)
    ]
    return sorted(found, key=lambda index: (not _stands_for(comparison, expected, index), -index))[:_LIKELY]


def _sources(comparison: Comparison, expected: int) -> list[int]:
    """The right values from which the wrong ones up to ``expected`` are made."""
    values = comparison.reference.values
    through = comparison.reference.led_to(expected, comparison.expected.wrong)
    inputs = [index for inner in through for index in values[inner].inputs]
    return list(dict.fromkeys(index for index in inputs if index not in through and not values[index].given))


def _stands_for(comparison: Comparison, expected: int, found: int) -> bool:
    """Whether a value that equals an operator's input is what was to be its output, such as that of an ``Identity`` put in its place."""
    value = comparison.artifact.values[found]
    return value.operator in _IDENTITIES and bool(value.module) and comparison.same_place(expected, found)


def _narrowed(comparison: Comparison, trial: _Trial, whole: bool, rerun: Rerun) -> Divergence:
    """The divergence of a trial that succeeded, moved to a wrong operand where putting that right does as much."""
    for operand in _operands(comparison, trial) if not trial.absent else ():
        again = _run_again(comparison, operand, rerun)
        if again is None:
            continue
        remaining = comparison.remaining(again)
        if remaining <= min(_CLEAN, comparison.tolerance) if whole else _right_followers(comparison, operand, again):
            return _narrowed(comparison, operand, whole, rerun)
    expected, found, right, absent, surplus = trial
    segment = [found] if absent else comparison.artifact.led_to(found, comparison.found.wrong)
    lacking = comparison.reference.led_to(expected, comparison.expected.wrong)
    return Divergence(expected, found, right, tuple(segment), tuple(lacking), comparison.tolerance, True, absent, surplus)


def _operands(comparison: Comparison, trial: _Trial) -> Iterator[_Trial]:
    """The wrong operands of a value, with the right ones of the value it stands for."""
    reference, artifact = comparison.reference, comparison.artifact
    wrong = [index for index in artifact.led_to(trial.found, comparison.found.wrong) if index != trial.found]
    likely = sorted(wrong, key=lambda index: (artifact.values[index].passes_on, -index))[:_LIKELY]
    for index, source in product(likely, _sources(comparison, trial.expected)):
        if reference.values[source].tensor.numel() == artifact.values[index].tensor.numel():
            yield _trial(comparison, source, index, surplus=True)._replace(expected=trial.expected)
