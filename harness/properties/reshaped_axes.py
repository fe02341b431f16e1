"""Reshapes within a row: a view splits axes and merges them; one that gives an axis another's place mixes what both hold.

``x.view(batch, heads, time, width)`` has the shape of ``x.view(batch, time, heads, width).transpose(1, 2)`` and other contents: each head then
holds pieces of several steps. Nothing else tells: every part of a row still reaches its output. One call is followed operator by operator
(``axis_tracking``); a second one, at other sizes, confirms what was found.
"""

from __future__ import annotations

from itertools import chain
from math import gcd
from typing import Any

from torch import Tensor

from harness.batches import Sizes
from harness.compat import tree_leaves
from harness.evidence import Evidence, Status
from harness.owners import left_to, owned_by
from harness.properties.axis_tracking import Reshape, Reshapes, Unlike
from harness.properties.calling import ModelRaisedError
from harness.properties.prerequisites import SHAPE_OWNER, hidden_by
from harness.properties.subject import Subject
from harness.properties.tracing import fields_of
from harness.tasks import TaskSpec
from harness.tasks.axes import BATCH
from harness.wording import counted

_NAME = "reshaped_axes"

_ROWS_OWNER = "batch_independence[forward]"
"""The test that fails where rows are mixed."""

_PRIMES = (11, 13, 7, 17, 5, 19, 23, 3, 29, 31, 2, 37, 41, 43, 47)
"""Sizes of free axes, the best first: they tell the axis from others, and take little time."""

_CAUSE = (
    "view or reshape where axes should change places: to split heads, `view(batch, steps, heads, width).transpose(1, 2)`; "
    "to move channels, `transpose` or `permute`"
)


def reshaped_axes(subject: Subject, seed: int = 0) -> Evidence:
    """No reshape of what depends on an input gives an axis the place of another, nor cuts across axes."""
    if failure := hidden_by(subject.prerequisite_failure, _NAME):
        return failure
    sizes = telling_sizes(subject.task, subject.typical)
    counterexample = f"{sizes.describe(subject.task)}, seed={seed}"
    try:
        found, calls = _followed(subject, sizes, seed)
        if not found and not calls.unlike:
            message = f"{counted(calls.views, 'reshape')} split and merge axes, and mix none"
            return Evidence.ok(_NAME, message, counterexample=counterexample)
        others, again_calls = _followed(subject, telling_sizes(subject.task, subject.typical, sizes), seed)
    except ModelRaisedError as error:
        if failing := _raises(subject, sizes, seed):
            return left_to(_NAME, SHAPE_OWNER, f"forward raises: {failing}", counterexample=counterexample, code="raises")
        # What compiles itself, for example, refuses to be followed.
        return Evidence.skipped(_NAME, f"the model cannot be followed operator by operator: {error}".splitlines()[0])
    by_place = {(each.blame, each.blame.place): each for each in others}
    unlike = next((each for each in calls.unlike if each.blame in {again.blame for again in again_calls.unlike}), None)
    confirmed = [(each, again) for each in found if (again := by_place.get((each.blame, each.blame.place)))]
    if not confirmed and unlike is not None:
        return _in_other_order(unlike, counterexample)
    if not confirmed:
        message = "a reshape that mixes axes at one size does not at another"
        return Evidence.ok(_NAME, message, counterexample=counterexample)
    moved = next((each for each, again in confirmed if each.moved and again.moved), None)
    first = moved or confirmed[0][0]
    shapes = f"a reshape of {list(first.before)} to {list(first.after)}"
    if moved is None:
        message = f"{shapes} cuts across axes: a step of a new axis holds the end of one step of an old axis and the beginning of the next"
        status, code = Status.WARN, "reshape_cuts_axes"
    else:
        size = max(moved.moved)
        message = (
            f"{shapes} mixes axes: memory keeps its order, so the new axis of {size} holds pieces of several steps of the old one"
        )
        status, code = Status.FAIL, "reshape_moves_axis"
    return Evidence.judged(
        _NAME,
        status,
        message,
        (
            float(first.steps_in_one) if moved else None,
            1.0 if moved else None,
            "steps of the old axis in one of the new" if moved else "",
        ),
        counterexample=counterexample,
        module=str(first.blame),
        cause=_CAUSE,
        details={"before": list(first.before), "after": list(first.after), **(owned_by(_ROWS_OWNER) if first.mixes_rows else {})},
        place=first.blame.place,
        code=code,
    )


def telling_sizes(task: TaskSpec, typical: Sizes, other: Sizes | None = None) -> Sizes:
    """Sizes at which axes that change places can be told from axes that are split and merged: primes, as far as the task allows.

    Args:
        task: What the sizes are of.
        typical: What is taken where no prime is allowed.
        other: Sizes from which these should differ.
    """
    signature, found = task.signature, typical.by_axis(task)
    known = other.by_axis(task) if other else {}
    shapes = chain((each.axes for each in signature.inputs), (each.axes for each in signature.outputs))
    taken = {size for axes in shapes for size in axes if isinstance(size, int) and size > 1}
    for axis in signature.free_axes:
        if axis.name == BATCH or axis.name not in found:
            continue
        primes = (prime * axis.multiple_of for prime in _PRIMES)
        allowed = [size for size in primes if axis.allows(size) and signature.allows({**found, axis.name: size})]
        telling = [size for size in allowed if all(gcd(size, each) < min(size, each) for each in taken)]
        if telling:
            found[axis.name] = next((size for size in telling if size != known.get(axis.name)), telling[0])
        taken.add(found[axis.name])
    if other and typical.batch > 1 and signature.allows({**found, BATCH: typical.batch - 1}):
        found[BATCH] = typical.batch - 1
    return Sizes.for_task(task, found)


def _raises(subject: Subject, sizes: Sizes, seed: int) -> str:
    """What forward raises at some sizes; empty where it does not."""
    try:
        subject.logits(subject.batch(sizes, seed), subject.fresh())
    except ModelRaisedError as error:
        return str(error)
    return ""


def _in_other_order(found: Unlike, counterexample: str) -> Evidence:
    one, other = found.sizes
    return Evidence.failed(
        _NAME,
        f"an axis made of {one} x {other} steps meets one made of {other} x {one}, so that elements of different places are put together",
        counterexample=counterexample,
        module=str(found.blame),
        cause="height and width in the wrong order where a table of positions is resized, or where one of the two is flattened",
        details={"before": [one, other], "after": [other, one]},
        place=found.blame.place,
        code="axes_in_other_order",
    )


def _followed(subject: Subject, sizes: Sizes, seed: int) -> tuple[list[Reshape], Reshapes]:
    """The reshapes of one call that mix axes of what it returns, and all that was followed."""
    batch, model, returned = subject.batch(sizes, seed), subject.fresh(), list[Any]()
    given = []
    for name, value in batch.items():
        axes = subject.task.signature.axes_of(name)
        rows = axes.index(BATCH) if isinstance(value, Tensor) and BATCH in axes else None
        given += [(leaf, rows) for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    handle = model.register_forward_hook(lambda _model, _inputs, output: returned.append(fields_of(output)))
    try:
        with Reshapes(model, given) as followed:
            returned.append(subject.logits(batch, model))
    finally:
        handle.remove()
    return followed.mixing(returned), followed
