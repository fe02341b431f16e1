"""Two recordings of one computation compared: which values are wrong, and where the first wrong values are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from harness.export.blame.recording import Trace

_SAMPLES = 64
_FAR = 0.05
"""Values further apart than this are different ones; how far apart they are is of no interest."""

_INFINITE = 1e30
"""Masks hold the most negative number or minus infinity, and adding to either may or may not change it."""

_OUTLYING = 1e3
_TINY = 1e-30
_VARIED = 0.1


@dataclass
class Gaps:
    """Relative distances from the nearest value on the other side, by index."""

    expected: list[float]
    found: list[float]


@dataclass(frozen=True)
class _Flat:
    values: Tensor
    scale: float
    sample: Tensor

    @classmethod
    def of(cls, tensor: Tensor) -> _Flat:
        flat = _flattened(tensor)
        count = len(flat)
        picked = flat if count <= _SAMPLES else flat[torch.arange(_SAMPLES) * (count - 1) // (_SAMPLES - 1)]
        return cls(flat, _scale(flat), picked)


def relative_gap(expected: Tensor, found: Tensor) -> float:
    """Largest difference of two tensors' elements, each relative to its own size plus what is usual in the tensor; shapes do not matter.

    Infinite where the numbers of elements differ, or NaN or infinity is only on one side.
    """
    if expected.numel() != found.numel():
        return float("inf")
    flat = _flattened(expected)
    return float(_gap(flat, _scale(flat), _flattened(found)).max()) if len(flat) else 0.0


def gaps_between(expected: Sequence[Tensor], found: Sequence[Tensor]) -> Gaps:
    """The distance of every tensor from the nearest one on the other side."""
    gaps = Gaps([float("inf")] * len(expected), [float("inf")] * len(found))
    by_size: dict[int, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for side, tensors in enumerate((expected, found)):
        for index, tensor in enumerate(tensors):
            by_size[tensor.numel()][side].append(index)
    for lefts, rights in by_size.values():
        if lefts and rights:
            _compare(expected, found, lefts, rights, gaps)
    return gaps


def is_telling(tensor: Tensor) -> bool:
    """Whether two different computations would hardly give this tensor by chance."""
    if not tensor.is_floating_point():
        return False
    sample = _Flat.of(tensor).sample
    sample = sample[sample.isfinite()]
    # Numbers that are all about the same are close to many others.
    return len(sample.unique()) > 4 and float(sample.std()) > _VARIED * float(sample.square().mean().sqrt())


def _compare(expected: Sequence[Tensor], found: Sequence[Tensor], lefts: list[int], rights: list[int], gaps: Gaps) -> None:
    """Distances among tensors of one size; most pairs are told apart by a few of their elements."""
    others = {index: _Flat.of(found[index]) for index in rights}
    samples = torch.stack([others[index].sample for index in rights])
    for left in lefts:
        flat = _Flat.of(expected[left])
        if not len(flat.values):
            continue
        rough = _gap(flat.sample, flat.scale, samples).amax(1).tolist()
        for least, right in sorted(zip(rough, rights, strict=True)):
            if least >= max(gaps.expected[left], gaps.found[right]):
                continue
            exact = least
            if least <= _FAR and len(flat.values) > _SAMPLES:
                exact = float(_gap(flat.values, flat.scale, others[right].values).max())
            gaps.expected[left] = min(gaps.expected[left], exact)
            gaps.found[right] = min(gaps.found[right], exact)


def _gap(expected: Tensor, scale: float, found: Tensor) -> Tensor:
    same = (expected == found) | (expected.isnan() & found.isnan())
    gap = (found - expected).abs() / (expected.abs() + scale)
    return torch.where(same, 0.0, gap).nan_to_num(nan=float("inf"), posinf=float("inf"))


def _flattened(tensor: Tensor) -> Tensor:
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    flat = tensor.detach().reshape(-1).double()
    return torch.where(flat.abs() > _INFINITE, flat.sign() * float("inf"), flat)


def _scale(flat: Tensor) -> float:
    """The usual size of a tensor's elements; a mask's large numbers beside the scores they were added to do not count."""
    sizes = flat[flat.isfinite() & (flat != 0)].abs()
    if not len(sizes):
        return _TINY
    if len(sizes) > 1 << 12:
        sizes = sizes[:: len(sizes) >> 12]
    usual = sizes[sizes <= _OUTLYING * torch.quantile(sizes, 0.1)]
    return max(float(usual.square().mean().sqrt()), _TINY)


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
