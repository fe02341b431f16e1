"""The shapes and contents at which a file is compared with its model, of which the exporter saw one; and inputs that take another branch."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from harness.batches import Batch, Sizes
from harness.compat import TorchDispatchMode, tree_leaves
from harness.export.program import Program, pad_rows
from harness.properties.numerics import extreme_batch
from harness.properties.subject import Subject

_BATCHES = (1, 2, 7, 13, 33)
"""Sizes that share no factor with each other or with the example's, and some way beyond it."""

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
        padded: Whether some rows are padded on the right.
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
    """The points for a program: each free axis at 1, 2, the example's size and its neighbours, coprime sizes and the largest."""
    choices = {axis: _sizes_of(axis, program) for axis in ("batch", "seq", "target_seq")}
    count = max(map(len, choices.values()))
    points = [Point(program.sizes, 0), Point(program.sizes, 1)]
    for index in range(count):
        # Each size of one axis meets different sizes of the others; a full product would say no more and take longer.
        sizes = Sizes(
            batch=choices["batch"][index % len(choices["batch"])],
            seq=choices["seq"][(index + 1) % len(choices["seq"])],
            target_seq=choices["target_seq"][(index + 2) % len(choices["target_seq"])],
        )
        points.append(Point(sizes, seed=index + 2))
    if "attention_mask" in program.fields and program.sizes.seq > 1:
        points += [Point(program.sizes, 0, padded=True)]
        points += [Point(point.sizes, point.seed, padded=True) for point in points[2:] if _can_pad(point.sizes)][:3]
    contents = ID_CONTENTS if program.task.is_text else _VALUE_CONTENTS
    points += [Point(program.sizes, 0, content) for content in contents]
    return tuple(dict.fromkeys(points))


def make_point(subject: Subject, program: Program, point: Point) -> Batch:
    """The batch of a point: the model's fields on the CPU."""
    if point.content in ID_CONTENTS:
        batch = extreme_batch(subject, point.sizes, point.content, point.seed)
    else:
        batch = subject.batch(point.sizes, point.seed)
    if point.padded:
        batch = pad_rows(subject, batch, point.sizes)
    batch = {name: batch[name].cpu() for name in program.fields}
    return {name: _changed(tensor, point.content) if tensor.is_floating_point() else tensor for name, tensor in batch.items()}


def _can_pad(sizes: Sizes) -> bool:
    return sizes.batch > 1 and sizes.seq > 1


def _sizes_of(axis: str, program: Program) -> tuple[int, ...]:
    own = getattr(program.sizes, axis)
    if axis not in program.limits:
        return (own,)
    low, high = program.limits[axis]
    wanted = (1, own + 1, 2, own - 1, *_BATCHES) if axis == "batch" else (own + 1, 1, own - 1, high, 2, 5, 9, 17)
    return tuple(dict.fromkeys(size for size in wanted if low <= size <= high)) or (own,)


def _changed(tensor: Tensor, content: str) -> Tensor:
    if content == "zero":
        return torch.zeros_like(tensor)
    return tensor * SCALES.get(content, 1.0) + {"shifted_up": _SHIFT, "shifted_down": -_SHIFT}.get(content, 0.0)


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
            program.eager(batch)
    except Exception:
        return None
    return tuple(path.steps)


def branch_candidates(program: Program) -> Iterator[Point]:
    """Points of the example's sizes whose contents differ as widely as the fields allow."""
    if program.task.is_text:
        yield from (Point(program.sizes, 0, content) for content in ID_CONTENTS)
        yield from (Point(program.sizes, seed, padded=padded) for seed, padded in product(_SEEDS, (False, True)))
        return
    yield from (Point(program.sizes, seed, content) for seed, content in product(_SEEDS, ("typical", *SCALES)))


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
