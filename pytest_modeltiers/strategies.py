"""The inputs that tier 1 is judged on: what Hypothesis draws from a task, corners, and the smallest sizes at which a check still fails.

What Hypothesis draws are the free sizes and contents of a task's inputs, smallest first, so that counterexamples shrink. Corners are the sizes
that matter most, judged whatever was drawn. Sizes that were not drawn, or lengths that were drawn only at their upper
end, are made smaller here: one axis after the other, until none can be made smaller by one.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from harness.batches import Sizes
from harness.evidence import Evidence, Status
from harness.internal_errors import CODE
from harness.properties.reach import MOST_ROWS
from harness.tasks import TaskSpec
from harness.tasks.axes import BATCH, Axis
from harness.tasks.signature import Signature

if TYPE_CHECKING:
    from harness.properties.subject import Subject


Cases = SearchStrategy[dict[str, Any]]
"""Keyword arguments of a property function."""

_SEEDS = st.integers(0, 7)

LONGEST_USUAL = 48
"""Lengths up to this one are drawn, and the declared one; those between are too slow to be drawn often."""


def sizes(task: TaskSpec, min_batch: int = 1, min_seq: int = 1, longer_than_least: str = "") -> SearchStrategy[Sizes]:
    """Sizes of a batch: up to five rows, and lengths up to the declared one, which is drawn often.

    Args:
        task: What is free.
        min_batch: Fewest rows.
        min_seq: Fewest tokens, or steps along a causal axis.
        longer_than_least: An axis of a declared task that is longer than its smallest size, as far as it can be.
    """
    if task.declared is not None:
        return _declared_sizes(task.declared, min_batch, min_seq, longer_than_least)
    return st.builds(
        Sizes,
        batch=st.integers(min_batch, max(min_batch, MOST_ROWS)),
        seq=_lengths(task, max(min_seq, task.min_seq_len)),
        target_seq=_lengths(task, min_seq) if task.is_seq2seq else st.just(1),
    )


def shapes(task: TaskSpec) -> Cases:
    """Sizes and, for images, also heights and widths around the declared ones."""
    return st.fixed_dictionaries({"sizes": _with_image_sizes(task), "seed": _SEEDS})


def _with_image_sizes(task: TaskSpec) -> SearchStrategy[Sizes]:
    """Sizes of a batch; of images that a task type names, whose size is declared as one, also with heights and widths around it."""
    if task.image_size is None:
        return sizes(task)
    _, height, width = task.image_size
    near = st.tuples(
        st.sampled_from(sorted({height, height + 1, max(1, height - 1), 2 * height})),
        st.sampled_from(sorted({width, width + 1, max(1, width - 1), 2 * width})),
    )
    images = st.one_of(st.none(), near.filter(lambda size: size != (height, width)))
    return st.builds(Sizes, batch=st.integers(1, 5), image=images)


def batches(task: TaskSpec) -> Cases:
    """Sizes and a seed."""
    return st.fixed_dictionaries({"sizes": sizes(task), "seed": _SEEDS})


def several_tokens(task: TaskSpec) -> Cases:
    """Batches of two tokens or more."""
    return st.fixed_dictionaries({"sizes": sizes(task, min_seq=2), "seed": _SEEDS})


def several_rows(task: TaskSpec) -> Cases:
    """Batches of two rows or more, as batch norm needs them in train mode."""
    return st.fixed_dictionaries({"sizes": sizes(task, min_batch=2, min_seq=2), "seed": _SEEDS})


def training_steps(task: TaskSpec) -> Cases:
    """Batches for a training step: two rows or more, and a single token too where that has a label."""
    least = 2 if task.signature.next_of(task.signature.main) else 1
    return st.fixed_dictionaries({"sizes": sizes(task, min_batch=2, min_seq=least), "seed": _SEEDS})


@st.composite
def pad_patterns(draw: st.DrawFn, task: TaskSpec) -> dict[str, Any]:
    """Batches, and the real length of each row along an axis; at least one row is padded."""
    axes = task.signature.padded
    axis = draw(st.sampled_from(axes)) if len(axes) > 1 else axes[0]
    drawn = draw(sizes(task, min_seq=1 + task.min_seq_len, longer_than_least=axis.name))
    total = task.signature.complete(drawn.by_axis(task))[axis.name]
    least = shortest(axis, total)
    lengths = draw(st.lists(st.integers(least, total), min_size=drawn.batch, max_size=drawn.batch))
    lengths[0] = max(least, min(lengths[0], total - 1))
    named = {"axis": axis.name} if len(axes) > 1 else {}
    return {"sizes": drawn, "lengths": tuple(lengths), "seed": draw(_SEEDS), **named}


def shortest(axis: Axis, total: int) -> int:
    """The fewest real elements of a row: as few as the axis allows, or one where it has one size only."""
    return axis.least if 1 <= axis.least < total else 1


def largest_sizes(subject: Subject) -> dict[str, Any]:
    """Many rows at full length, where faults show that show at some sizes only."""
    return {"sizes": subject.reach.largest(MOST_ROWS)}


def longest_sizes(subject: Subject) -> dict[str, Any]:
    """The same, for what is asked along a row; of a large model in one row."""
    return {"sizes": subject.reach.largest(1 if subject.is_large else MOST_ROWS)}


def largest_cheap_sizes(subject: Subject) -> dict[str, Any]:
    """The largest sizes that many calls are made at."""
    return {"sizes": subject.reach.largest_cheap(MOST_ROWS)}


def largest_padding(subject: Subject) -> dict[str, Any]:
    """The largest sizes, each row with more padding than the one before."""
    sizes, axis = subject.reach.largest(MOST_ROWS), subject.task.signature.padded[0]
    total = subject.task.signature.complete(sizes.by_axis(subject.task))[axis.name]
    lengths = tuple(max(shortest(axis, total), total - 1 - 2 * row) for row in range(sizes.batch))
    return {"sizes": sizes, "lengths": lengths}


def typical_then_largest(subject: Subject) -> dict[str, Any]:
    """A call at typical sizes, one of a flat and one of a tall image, which have as many places, and one at the largest.

    Of images that a task type names there is one at twice their height and width.
    """
    calls = [subject.typical, *_turned(subject), subject.reach.largest(MOST_ROWS)]
    if subject.task.image_size is not None:
        _, height, width = subject.task.image_size
        calls.append(replace(subject.typical, image=(2 * height, 2 * width)))
    return {"calls": tuple(calls)}


def _turned(subject: Subject) -> list[Sizes]:
    """Two calls of which one has the sizes of two axes of an input in each other's place, as of an image on its side; none where none may.

    One size is the smallest, the other a typical one, so that they stay apart where strides divide them.
    """
    signature, sizes = subject.task.signature, subject.typical.by_axis(subject.task)
    if subject.task.declared is None:
        return []
    free = {axis.name: axis for axis in signature.free_axes if axis.name != BATCH}
    for each in signature.inputs:
        for first, second in combinations([axis for axis in each.axes if isinstance(axis, str) and axis in free], 2):
            low, high = max(free[first].choices()[0], free[second].choices()[0]), max(sizes[first], sizes[second])
            ways = [{**sizes, first: one, second: other} for one, other in ((low, high), (high, low))]
            if low != high and all(map(signature.allows, ways)):
                return [Sizes.of(way) for way in ways]
    return []


def _declared_sizes(signature: Signature, min_batch: int, min_seq: int, longer: str) -> SearchStrategy[Sizes]:
    """Sizes of all free axes at once, the smallest first; up to five rows, and along a causal axis at least so many steps."""
    choices = {axis.name: axis.choices() for axis in signature.free_axes}
    for axis in signature.with_order("causal"):
        if axis.name in choices:
            choices[axis.name] = _between(choices[axis.name], min_seq)
    if longer in choices:
        choices[longer] = choices[longer][1:] or choices[longer]
    if BATCH in choices:
        choices[BATCH] = _between(choices[BATCH], min_batch, max(min_batch, MOST_ROWS))
    drawn = st.fixed_dictionaries({name: st.sampled_from(sizes) for name, sizes in choices.items()})
    return (drawn.filter(signature.allows) if signature.limits else drawn).map(Sizes.of)


def _between(sizes: Sequence[int], least: int, most: int | None = None) -> Sequence[int]:
    """The part of ascending sizes from ``least`` to ``most``; the largest size where that part is empty."""
    end = len(sizes) if most is None else bisect_right(sizes, most)
    return sizes[bisect_left(sizes, least) : end] or sizes[-1:]


def _lengths(task: TaskSpec, least: int) -> SearchStrategy[int]:
    longest = task.max_seq_len
    if longest is None:
        return st.just(1)
    if longest <= least:
        return st.just(longest)
    usual = min(longest - 1, LONGEST_USUAL)
    # One strategy of integers, so that the longest one shrinks as the others do; about every second draw is above the usual ones.
    return st.integers(least, 2 * usual - least + 1).map(lambda length: length if length <= usual else longest)


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
