"""Where two recordings of one computation part: the first value that is wrong though everything it was made from is right.

Nothing is matched by name, as exporters rename, fold and fuse. A value of one recording is right when the other holds an equal one,
whatever its shape. From the logits the search goes back through values that have no equal, to those all of whose inputs have one. Such a
value may still be innocent, an intermediate that the other side never had. So each suspect is tried: the computation is run again with
the right value in its place, and only if what follows is then right is it to blame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from torch import Tensor

from harness.export.closeness import Gaps, gaps_between, is_telling, relative_gap
from harness.export.trace import Trace

_TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""Tried from loose to tight. Rounding grows along a deep model, so a loose one misleads least; but a real defect may be small where it
arises and grow later, and then only a tight one sees where."""

_CLEAR_JUMP = 30.0
"""A suspect's error over its inputs' from which a tolerance is taken to fit: above it lie defects, below it rounding that was amplified."""

_ROUNDING = 1e-7
_MOST_TRIALS = 16
_LIKELY = 4

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
        tolerance: Relative difference from which values count as different.
        confirmed: Whether what follows is right once ``found`` is put right.
        absent: Whether the artifact has nothing in its place: ``found`` is what comes before.
        surplus: Whether the model reads ``right`` there as it is, so that what made ``found`` of it is too much.
    """

    expected: int
    found: int
    right: Tensor
    segment: tuple[int, ...]
    tolerance: float
    confirmed: bool
    absent: bool = False
    surplus: bool = False


class _Side(NamedTuple):
    """What is wrong in one recording: all of it on the way to the logits, and where it starts, likeliest first."""

    wrong: list[int]
    starts: list[int]


class _Trial(NamedTuple):
    expected: int
    found: int
    right: Tensor
    absent: bool = False
    surplus: bool = False


@dataclass
class _Level:
    """The two recordings compared at one tolerance."""

    reference: Trace
    artifact: Trace
    gaps: Gaps
    tolerance: float
    expected: _Side
    found: _Side

    @property
    def jump(self) -> float:
        """How much larger the first suspect's error is than those of its inputs."""
        first = self.found.starts[0]
        inputs = [self.gaps.found[i] for i in self.artifact.values[first].inputs if not self.artifact.values[i].given]
        return self.gaps.found[first] / max([_ROUNDING, *inputs])

    def same_place(self, expected: int, found: int) -> bool:
        """Whether both came up in the same module and line, as far as the artifact says."""
        left, right = self.reference.values[expected], self.artifact.values[found]
        return left.module == right.module and (not right.lines or not set(left.lines).isdisjoint(right.lines))


def find_divergence(reference: Trace, artifact: Trace, rerun: Rerun) -> Divergence | None:
    """The first value of an artifact that is wrong; ``None`` where its logits are the reference's, or no value stands out."""
    levels = _levels(reference, artifact)
    for level in levels:
        for trial in _trials(level):
            if _heals(level, trial, rerun):
                return _narrowed(level, trial, rerun)
    if not levels:
        return None
    level = levels[0]
    expected, found = level.expected.starts[0], level.found.starts[0]
    right = reference.values[expected].tensor
    return Divergence(expected, found, right, (found,), level.tolerance, confirmed=False)


def _levels(reference: Trace, artifact: Trace) -> list[_Level]:
    """The comparisons worth a trial: the loosest with a clear jump first, then the others by their jump."""
    gaps = gaps_between([v.tensor for v in reference.values], [v.tensor for v in artifact.values])
    # The logits must equal the logits; that they equal some other value is no excuse.
    total = relative_gap(reference.logits, artifact.logits)
    gaps.expected[reference.output] = gaps.found[artifact.output] = total
    levels = []
    for tolerance in (*_TOLERANCES, total / 3):
        if total <= tolerance:
            continue
        expected, found = _side(reference, gaps.expected, tolerance), _side(artifact, gaps.found, tolerance)
        if expected.starts and found.starts:
            levels.append(_Level(reference, artifact, gaps, tolerance, expected, found))
    clear = next((level for level in levels if level.jump >= _CLEAR_JUMP), None)
    return sorted(levels, key=lambda level: (level is not clear, -level.jump))


def _side(trace: Trace, gaps: Sequence[float], tolerance: float) -> _Side:
    def right(index: int) -> bool:
        return trace.values[index].given or gaps[index] <= tolerance

    wrong: set[int] = set()
    waiting = [trace.output]
    while waiting:
        index = waiting.pop()
        if index not in wrong and not (right(index) and index != trace.output):
            wrong.add(index)
            waiting += trace.values[index].inputs
    vouched = _vouched_for(trace, right)
    starts = [index for index in sorted(wrong) if all(map(right, trace.values[index].inputs))]
    return _Side(sorted(wrong), sorted(starts, key=lambda index: (index in vouched, index)))


def _vouched_for(trace: Trace, right: Callable[[int], bool]) -> set[int]:
    """Values from which something right and telling was made, so that they are hardly wrong themselves."""
    vouched: set[int] = set()
    for index in range(len(trace.values) - 1, -1, -1):
        value = trace.values[index]
        if index in vouched or (not value.given and right(index) and is_telling(value.tensor)):
            vouched.update(value.inputs)
    return vouched


def _trials(level: _Level) -> Iterator[_Trial]:
    """Values to put right, likeliest first: those where the wrong begins, those before a missing operator, those that follow."""
    first = level.expected.starts[0]
    pairs = _pairs(level)
    likely = [pair for pair in pairs if pair[0] == first][:_LIKELY]
    for expected, found in likely:
        yield _trial(level, expected, found)
    for found in _before_missing(level, first):
        yield _trial(level, first, found, absent=not _stands_for(level, first, found))
    for expected, found in pairs:
        if (expected, found) not in likely:
            yield _trial(level, expected, found)


def _trial(level: _Level, expected: int, found: int, absent: bool = False) -> _Trial:
    like = level.artifact.values[found].tensor
    return _Trial(expected, found, level.reference.values[expected].tensor.reshape(like.shape).to(like.dtype), absent)


def _pairs(level: _Level) -> list[tuple[int, int]]:
    """Wrong values of the artifact beside those of the reference that they may stand for, nearest to where the wrong begins first."""
    ranked: dict[tuple[int, int], int] = {}
    for expected_rank, expected_start in enumerate(level.expected.starts[:2]):
        starts = sorted(level.found.starts, key=lambda found: not level.same_place(expected_start, found))[:3]
        lefts = _computed(level.reference, expected_start, level.expected.wrong)
        for found_rank, found_start in enumerate(starts):
            rights = _computed(level.artifact, found_start, level.found.wrong)
            for (i, left), (j, right) in product(enumerate(lefts), enumerate(rights)):
                if level.reference.values[left].tensor.numel() == level.artifact.values[right].tensor.numel():
                    rank = i + j + 2 * (expected_rank + found_rank)
                    ranked[left, right] = min(rank, ranked.get((left, right), rank))
    return sorted(ranked, key=lambda pair: ranked[pair])[:_MOST_TRIALS]


def _computed(trace: Trace, start: int, among: list[int]) -> list[int]:
    """A start and the first values computed from it; what only moves values need not be tried, the computation before it is."""
    later = trace.made_from([start], among)
    return [index for index in later if index == start or not trace.values[index].passes_on][:8]


def _before_missing(level: _Level, expected: int) -> list[int]:
    """The artifact's values that an operator would have read which the artifact may lack, the last one first."""
    value = level.reference.values[expected]
    found = [
        index
        for index, other in enumerate(level.artifact.values)
        if not other.given
        and other.tensor.numel() == value.tensor.numel()
        and any(
            relative_gap(level.reference.values[i].tensor, other.tensor) <= level.tolerance
            for i in value.inputs
            if not level.reference.values[i].given
        )
    ]
    return sorted(found, key=lambda index: (not level.same_place(expected, index), -index))[:4]


def _stands_for(level: _Level, expected: int, found: int) -> bool:
    """Whether a value that equals an operator's input is what was to be its output, such as that of an ``Identity`` put in its place."""
    value = level.artifact.values[found]
    return bool(value.lines) and value.passes_on and level.same_place(expected, found)


def _heals(level: _Level, trial: _Trial, rerun: Rerun) -> bool:
    """Whether what follows a value is right once the value is."""
    again = rerun(trial.found, trial.right)
    if again is None or len(again.values) != len(level.artifact.values):
        return False
    if relative_gap(level.reference.logits, again.logits) <= level.tolerance:
        return True
    # Where a fault comes up again later on, the logits stay wrong; but the values up to there are right now.
    followers = [
        again.values[index].tensor
        for index in level.artifact.made_from([trial.found], level.found.wrong)
        if index != trial.found and not again.values[index].passes_on and is_telling(again.values[index].tensor)
    ][:12]
    later = [value.tensor for value in level.reference.values[trial.expected + 1 :]]
    return any(gap <= level.tolerance for gap in gaps_between(later, followers).found)


def _narrowed(level: _Level, trial: _Trial, rerun: Rerun) -> Divergence:
    """The divergence of a trial that succeeded, moved to a wrong operand where putting that right is enough."""
    for operand in _operands(level, trial) if not trial.absent else ():
        if _heals(level, operand, rerun):
            return _narrowed(level, operand, rerun)
    segment = (trial.found,) if trial.absent else tuple(level.artifact.led_to(trial.found, level.found.wrong))
    return Divergence(trial.expected, trial.found, trial.right, segment, level.tolerance, True, trial.absent, trial.surplus)


def _operands(level: _Level, trial: _Trial) -> Iterator[_Trial]:
    """The wrong operands of a value, with the right ones of the value it stands for."""
    values = level.reference.values
    through = level.reference.led_to(trial.expected, level.expected.wrong)
    sources = dict.fromkeys(i for index in through for i in values[index].inputs if i not in through and not values[i].given)
    artifact = level.artifact
    wrong = [index for index in artifact.led_to(trial.found, level.found.wrong) if index != trial.found]
    likely = sorted(reversed(wrong), key=lambda index: artifact.values[index].passes_on)[:_LIKELY]
    for index, source in product(likely, sources):
        like = artifact.values[index].tensor
        if values[source].tensor.numel() == like.numel():
            yield _Trial(trial.expected, index, values[source].tensor.reshape(like.shape).to(like.dtype), surplus=True)
