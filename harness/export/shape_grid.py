"""The shapes and contents at which a file is compared with its model, of which the exporter saw one; and inputs that take another branch."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from harness.batches import Batch, Sizes
from harness.compat import TorchDispatchMode, tree_leaves
from harness.export.program import Program, as_exported, has_shorter_rows, shorten_rows
from harness.properties.numerics import extreme_batch
from harness.properties.subject import Subject
from harness.tasks.axes import BATCH
from harness.tasks.signature import Input, Signature
from harness.tasks.values import Ids, IndexOf, Normal, OneOf, Uniform

_BATCHES = (1, 2, 7, 13, 33)
"""Sizes that share no factor with each other or with the example's, and some way beyond it."""

_FACTORS = (2, 5, 9, 17)
"""The same for other axes, in steps of the axis."""

_SHIFT = 3.0
ID_CONTENTS = ("first_id", "last_id")
SCALES = {"times_30": 30.0, "times_0.03": 0.03, "times_-30": -30.0}
_VALUE_CONTENTS = ("zero", "shifted_up", "shifted_down")


@dataclass(frozen=True)
class Point:
    """One batch of the grid.

    Attributes:
        sizes: Its sizes.
        seed: Seed of its contents.
        content: ``typical``, or what its inputs hold instead.
        padded: Whether some rows are shorter than the others.
    """

    sizes: Sizes
    seed: int = 0
    content: str = "typical"
    padded: bool = False

    def describe(self, program: Program) -> str:
        """The point for people."""
        parts = [self.sizes.describe(program.task)]
        parts += ["padded rows"] if self.padded else []
        parts += [f"content={self.content}"] if self.content != "typical" else []
        return ", ".join((*parts, f"seed={self.seed}"))

    def seen(self, program: Program) -> bool:
        """Whether the exporter saw this shape."""
        return self.sizes == program.sizes


def shape_grid(program: Program) -> tuple[Point, ...]:
    """The points for a program: each free axis at its smallest, the example's size and its neighbours, coprime sizes and the largest."""
    task = program.task
    own = program.sizes.by_axis(task)
    choices = {axis: _sizes_of(axis, program, size) for axis, size in own.items()}
    points = [Point(program.sizes, 0), Point(program.sizes, 1)]
    for index in range(max(map(len, choices.values()), default=0)):
        # Each size of one axis meets different sizes of the others; a full product would say no more and take longer.
        met = {axis: sizes[(index + shift) % len(sizes)] for shift, (axis, sizes) in enumerate(choices.items())}
        if is_possible(task.signature, met):
            points.append(Point(Sizes.for_task(task, met), seed=index + 2))
    if _has_padding(program, program.sizes):
        points += [Point(program.sizes, 0, padded=True)]
        points += [Point(each.sizes, each.seed, padded=True) for each in points[2:] if _has_padding(program, each.sizes)][:3]
    points += [Point(program.sizes, 0, content) for content in _contents(program, ID_CONTENTS, _VALUE_CONTENTS)]
    return tuple(dict.fromkeys(points))


def is_possible(signature: Signature, sizes: Mapping[str, int]) -> bool:
    """Whether a signature allows sizes, and there are no more groups than elements to be in them."""
    whole = signature.complete(sizes)
    grouping = [each for each in signature.inputs if isinstance(each.values, IndexOf) and each.values.axis in signature.grouping]
    return signature.allows(sizes) and all(
        whole[each.values.axis] <= math.prod(whole[axis] if isinstance(axis, str) else axis for axis in each.axes)
        for each in grouping
    )


def make_point(subject: Subject, program: Program, point: Point) -> Batch:
    """The batch of a point: the model's fields on the CPU, as a file takes them."""
    if point.content in ID_CONTENTS:
        batch = extreme_batch(subject, point.sizes, point.content, point.seed)
    else:
        batch = subject.batch(point.sizes, point.seed)
    if point.padded:
        batch = shorten_rows(subject.task, batch, point.sizes)
    signature = subject.task.signature
    batch = {**batch, **_states(subject, batch, point)}
    batch = {name: _changed(batch[name].cpu(), signature.input(name), point.content) for name in program.fields}
    return as_exported(subject.adapter, batch)


def _states(subject: Subject, batch: Batch, point: Point) -> Batch:
    """What an earlier call may have returned, in place of the zeros that the first call is given."""
    rng = torch.Generator().manual_seed(point.seed)
    states = [each.name for each in subject.task.signature.inputs if each.state and each.name in batch]
    return {name: torch.randn(batch[name].shape, generator=rng).to(batch[name]) for name in states if point.seed}


def _has_padding(program: Program, sizes: Sizes) -> bool:
    """Whether rows may be shorter at some sizes."""
    own = sizes.by_axis(program.task)
    longest = max((size for axis, size in own.items() if axis != BATCH), default=1)
    return has_shorter_rows(program.task, program.fields) and own.get(BATCH, 1) > 1 and longest > 1


def _inputs(program: Program) -> list[Input]:
    return [program.task.signature.input(name) for name in program.fields]


def _contents(program: Program, of_ids: Iterable[str], of_numbers: Iterable[str]) -> list[str]:
    """What the inputs of a program may hold beside the usual."""
    kinds = [each.values for each in _inputs(program)]
    has_ids = any(isinstance(values, (Ids, OneOf)) for values in kinds)
    has_numbers = any(isinstance(values, (Normal, Uniform)) for values in kinds)
    return [*(of_ids if has_ids else ()), *(of_numbers if has_numbers else ())]


def _sizes_of(axis: str, program: Program, own: int) -> tuple[int, ...]:
    declared = program.task.signature.axes.get(axis)
    if declared is None or (axis not in program.limits and axis not in program.task.signature.grouping):
        return (own,)
    if axis in program.limits:
        (low, high), step = program.sizes_tried(axis), program.step(axis)
    else:
        choices = declared.choices()
        low, high, step = choices[0], choices[-1], declared.multiple_of
    first = step if low <= step else low
    others = (2 * step, own - step, *_BATCHES) if axis == BATCH else (own - step, high, *(step * factor for factor in _FACTORS))
    wanted = (first, own + step, *others) if axis == BATCH else (own + step, first, *others)
    return tuple(dict.fromkeys(size for size in wanted if low <= size <= high and declared.allows(size))) or (own,)


def _changed(tensor: Tensor, each: Input, content: str) -> Tensor:
    """An input with other numbers, within the range that is declared for it."""
    if not isinstance(each.values, (Normal, Uniform)):
        return tensor
    if content == "zero":
        changed = torch.zeros_like(tensor)
    else:
        changed = tensor * SCALES.get(content, 1.0) + {"shifted_up": _SHIFT, "shifted_down": -_SHIFT}.get(content, 0.0)
    return changed.clamp(each.values.low, each.values.high) if isinstance(each.values, Uniform) else changed


_SEEDS = range(20, 28)
_ENOUGH = 3


class _Path(TorchDispatchMode):
    """Notes the operators that run, and their arguments other than tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Hashable] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Notes and runs an operator."""
        plain = tuple(str(leaf) for leaf in tree_leaves((args, kwargs)) if not isinstance(leaf, Tensor))
        self.steps.append((str(func), plain))
        return func(*args, **(kwargs or {}))


def path_of_batch(program: Program, batch: Batch) -> tuple[Hashable, ...] | None:
    """The operators a model runs on a batch; ``None`` where it raises."""
    try:
        with _Path() as path, torch.no_grad():
            program.eager_outputs(batch)
    except Exception:
        return None
    return tuple(path.steps)


def branch_candidates(program: Program) -> Iterator[Point]:
    """Points of the example's sizes whose contents differ as widely as the fields allow."""
    if extremes := _contents(program, ID_CONTENTS, ()):
        paddings = (False, True) if _has_padding(program, program.sizes) else (False,)
        yield from (Point(program.sizes, 0, content) for content in extremes)
        yield from (Point(program.sizes, seed, padded=padded) for seed, padded in product(_SEEDS, paddings))
    for seed, content in product(_SEEDS, _contents(program, (), ("typical", *SCALES))):
        yield Point(program.sizes, seed, content)


def choose_branch_inputs(
    known: tuple[Hashable, ...] | None, found: Iterator[tuple[Point, tuple[Hashable, ...] | None]]
) -> tuple[Point, ...]:
    """The first points of each path that is not the known one, a few at most."""
    paths: dict[tuple[Hashable, ...], Point] = {}
    for point, path in found:
        if path is not None and path != known:
            paths.setdefault(path, point)
        if len(paths) == _ENOUGH:
            break
    return tuple(paths.values())
