"""Inputs at which a model takes another path through its code than at the example an exporter saw.

A graph holds one path. Where a model decides by a value, the other paths must be found before they can be compared, and random inputs of
a usual size may never take them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from harness.batches import Batch
from harness.compat import TorchDispatchMode, tree_leaves
from harness.export.program import Program
from harness.export.shape_grid import ID_CONTENTS, SCALES, Point

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
