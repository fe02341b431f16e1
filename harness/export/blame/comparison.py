"""Two recordings of one computation held against each other: which values are wrong, and where the wrong begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from harness.export.blame.closeness import Gaps, gaps_between, is_telling, relative_gap
from harness.export.blame.trace import Trace

_TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""Tried from loose to tight. Rounding grows along a deep model, so a loose one misleads least; but a real defect may be small where it
arises and grow later, and then only a tight one sees where."""

_CLEAR_JUMP = 30.0
"""A suspect's error over its inputs' from which a tolerance is taken to fit: above it lie defects, below it rounding that was amplified."""

_ROUNDING = 1e-7


class Side(NamedTuple):
    """What is wrong in one recording: all of it on the way to the logits, and where it starts, likeliest first."""

    wrong: list[int]
    starts: list[int]


@dataclass
class Comparison:
    """Two recordings compared at one tolerance.

    Attributes:
        reference: The model's recording.
        artifact: The artifact's.
        gaps: Distances of their values.
        tolerance: Up to which distance values count as equal.
        expected: What the artifact lacks of the reference.
        found: What the artifact has instead.
    """

    reference: Trace
    artifact: Trace
    gaps: Gaps
    tolerance: float
    expected: Side
    found: Side

    @property
    def jump(self) -> float:
        """How much larger the first suspects' errors are than those of their inputs, on the side where that is less clear."""
        return min(
            _jump(self.reference, self.gaps.expected, self.expected.starts[0]),
            _jump(self.artifact, self.gaps.found, self.found.starts[0]),
        )

    def remaining(self, artifact: Trace) -> float:
        """How far the logits of another run of the artifact are from right."""
        return relative_gap(self.reference.logits, artifact.logits)

    def count_right(self, tensors: Sequence[Tensor], after: int) -> int:
        """How many of some tensors are values of the reference that came up after another and led to its logits."""
        later = [self.reference.values[index].tensor for index in self.reference.live if index > after]
        return sum(gap <= self.tolerance for gap in gaps_between(later, tensors).found)

    def same_place(self, expected: int, found: int) -> bool:
        """Whether both came up in the same module and line, as far as the artifact says."""
        left, right = self.reference.values[expected], self.artifact.values[found]
        return left.module == right.module and (not right.lines or not set(left.lines).isdisjoint(right.lines))


def comparisons(reference: Trace, artifact: Trace) -> list[Comparison]:
    """The comparisons worth looking into: the loosest with a clear jump first, then the others by their jump."""
    gaps = _gaps(reference, artifact)
    total = gaps.expected[reference.output]
    found: list[Comparison] = []
    for tolerance in (*_TOLERANCES, min(total / 3, _TOLERANCES[-1])):
        if total <= tolerance:
            continue
        sides = _side(reference, gaps.expected, tolerance), _side(artifact, gaps.found, tolerance)
        known = bool(found) and sides == (found[-1].expected, found[-1].found)
        if all(side.starts for side in sides) and not known:
            found.append(Comparison(reference, artifact, gaps, tolerance, *sides))
    clear = next((comparison for comparison in found if comparison.jump >= _CLEAR_JUMP), None)
    return sorted(found, key=lambda comparison: (comparison is not clear, -comparison.jump))


def _gaps(reference: Trace, artifact: Trace) -> Gaps:
    # What is computed and not used, such as the mean that a layer norm also returns, is no sign that anything is right.
    sides = reference.live, artifact.live
    tensors = [[trace.values[index].tensor for index in live] for trace, live in zip((reference, artifact), sides, strict=True)]
    among = gaps_between(*tensors)
    gaps = Gaps([float("inf")] * len(reference.values), [float("inf")] * len(artifact.values))
    for target, live, known in zip((gaps.expected, gaps.found), sides, (among.expected, among.found), strict=True):
        for index, gap in zip(live, known, strict=True):
            target[index] = gap
    # The logits must equal the logits; that they equal some other value is no excuse.
    total = relative_gap(reference.logits, artifact.logits)
    gaps.expected[reference.output] = gaps.found[artifact.output] = total
    return gaps


def _jump(trace: Trace, gaps: Sequence[float], start: int) -> float:
    inputs = [gaps[index] for index in trace.values[start].inputs if not trace.values[index].given]
    return gaps[start] / max([_ROUNDING, *inputs])


def _side(trace: Trace, gaps: Sequence[float], tolerance: float) -> Side:
    def right(index: int) -> bool:
        return trace.values[index].given or gaps[index] <= tolerance

    wrong: set[int] = set()
    waiting = [trace.output]
    while waiting:
        index = waiting.pop()
        if index not in wrong and (index == trace.output or not right(index)):
            wrong.add(index)
            waiting += trace.values[index].inputs
    vouched = _vouched_for(trace, right)
    starts = [index for index in sorted(wrong) if all(map(right, trace.values[index].inputs))]
    return Side(sorted(wrong), sorted(starts, key=lambda index: (index in vouched, index)))


def _vouched_for(trace: Trace, right: Callable[[int], bool]) -> set[int]:
    """Values from which something right and telling was made, so that they are hardly wrong themselves."""
    vouched: set[int] = set()
    for index in range(len(trace.values) - 1, -1, -1):
        value = trace.values[index]
        if index in vouched or (not value.given and right(index) and is_telling(value.tensor)):
            vouched.update(value.inputs)
    return vouched
