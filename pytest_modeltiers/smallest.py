"""The smallest sizes at which a check still fails, found from sizes at which it does.

Hypothesis shrinks what it drew. Sizes that were not drawn, or lengths that were drawn only at their upper end, are made smaller here:
one axis after the other, until none can be made smaller by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from harness.batches import Sizes
from harness.evidence import Evidence, Status
from harness.internal_errors import CODE
from harness.tasks import TaskSpec

_AXES = ("batch", "seq", "target_seq")
_TRIED_FIRST = 4
"""Smallest values that are tried one by one, as a failure there need not be the smaller end of a range."""

Case = dict[str, Any]
"""Keyword arguments of a property function."""


def smallest_failing(
    case: Case,
    failed: Evidence,
    run: Callable[[Case], Evidence],
    least: Sizes,
    out_of_time: Callable[[], bool],
    task: TaskSpec | None = None,
) -> tuple[Case, Evidence]:
    """A case that fails as the given one does and whose sizes cannot be made smaller, with its evidence.

    Args:
        case: A failing case with ``sizes``, and ``seed`` where it has one.
        failed: Its evidence.
        run: Judges a case.
        least: The smallest sizes that may be tried.
        out_of_time: Whether to stop with what there is.
        task: What the sizes are of; those that it does not allow are not tried.
    """
    kind = kind_of(failed)
    found = (case, failed)

    def fails(candidate: Case) -> bool:
        nonlocal found
        if out_of_time() or not _allows(task, candidate["sizes"]):
            return False
        evidence = run(candidate)
        if kind_of(evidence) != kind:
            return False
        found = (candidate, evidence)
        return True

    declared = dict(least.declared)
    while True:
        before = found[0]
        for axis in (*_AXES, *declared):
            _reduce(found[0], axis, declared[axis] if axis in declared else getattr(least, axis), fails)
        if found[0].get("seed"):
            fails({**found[0], "seed": 0})
        if found[0] == before:
            return found


def _allows(task: TaskSpec | None, sizes: Sizes) -> bool:
    return task is None or task.declared is None or task.declared.allows(sizes.by_axis(task))


def kind_of(evidence: Evidence) -> str:
    """What a failure says apart from its numbers; empty for what is no failure of the model."""
    if evidence.status is not Status.FAIL or evidence.code == CODE:
        return ""
    return re.sub(r"[-+.,\d()\[\]]+", "#", evidence.message.partition(":")[0])


def _reduce(case: Case, axis: str, least: int, fails: Callable[[Case], bool]) -> None:
    """Makes one axis as small as it gets: by the smallest values first, then by halving what is left."""
    sizes = case["sizes"]
    high, low = dict(sizes.declared).get(axis, getattr(sizes, axis, 1)), least - 1
    for value in _first(least, high):
        if fails(_with(case, axis, value)):
            return
        low = value
    while high - low > 1:
        middle = (low + high) // 2
        if fails(_with(case, axis, middle)):
            high = middle
        else:
            low = middle


def _with(case: Case, axis: str, value: int) -> Case:
    sizes = case["sizes"]
    changed: dict[str, Any] = {axis: value}
    if axis not in _AXES:
        changed = {"declared": tuple((name, value if name == axis else size) for name, size in sizes.declared)}
    return {**case, "sizes": replace(sizes, **changed)}


def _first(least: int, high: int) -> Iterator[int]:
    yield from range(least, min(high, least + _TRIED_FIRST))
