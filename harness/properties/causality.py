"""Nothing looks ahead along a causal axis: what an output says of a position does not depend on what comes at that place or later."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from harness.batches import Batch, Sizes, other_batch
from harness.evidence import Evidence, Status
from harness.properties.equality import first_failure, judge_equal, remembered
from harness.properties.independence import Run, ends_along, record
from harness.properties.prerequisites import left_to_batch_independence
from harness.properties.subject import Subject
from harness.properties.tracing import first_divergence, positions_view
from harness.tasks.axes import rows_first
from harness.tasks.signature import Input
from harness.tasks.values import Ids, IndexOf, LengthsOf, MaskOf

_MOST_POSITIONS = 16


def causality(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """The output before a position stays the same when what stands there changes, for every position or, of a long axis, a spread of them.

    Args:
        subject: A model with a causal axis.
        sizes: At least two positions along it.
        seed: Seed of the contents.
    """
    signature = subject.task.signature
    whole = signature.complete(sizes.by_axis(subject.task))
    base = subject.batch(sizes, seed)
    others = other_batch(subject.task, base, subject.batch(sizes, seed + 10_007))
    reference = remembered(subject, lambda model: subject.logits(base, model))
    found: list[Evidence] = []
    for axis in signature.with_order("causal"):
        if (
            whole[axis.name] < 2
            or not ends_along(signature, signature.main, axis.name, 1, whole)
            or not list(_read(subject, axis.name))
        ):
            continue
        for position in _spread(whole[axis.name]):
            found.append(_causal_at(subject, sizes, axis.name, position, base, others, reference, seed))
            if found[-1].status is Status.FAIL:
                break
    if not found:
        return Evidence("causal", Status.SKIPPED, f"`{signature.main.name}` has no two positions along a causal axis")
    return left_to_batch_independence(subject, first_failure(found))


def _spread(length: int) -> list[int]:
    places: list[int] = torch.linspace(1, length - 1, min(length - 1, _MOST_POSITIONS)).round().long().unique().tolist()
    return places


def _read(subject: Subject, axis: str) -> Iterator[Input]:
    """The inputs whose contents are read along an axis."""
    for each in subject.task.signature.inputs:
        if axis in each.axes and not each.state and not isinstance(each.values, (LengthsOf, MaskOf, IndexOf)):
            yield each


def _causal_at(
    subject: Subject, sizes: Sizes, axis: str, position: int, base: Batch, others: Batch, reference: Run, seed: int
) -> Evidence:
    signature = subject.task.signature
    read = [each for each in _read(subject, axis) if each.name in base]
    changed = {**base, **{each.name: _swapped(each, base[each.name], others[each.name], axis, position) for each in read}}
    ends = ends_along(signature, signature.main, axis, position, sizes.by_axis(subject.task))
    is_text = all(isinstance(each.values, Ids) for each in read)
    what = f"token {position}" if is_text else f"position {position} of `{axis}`"

    def before(output: Tensor) -> Tensor:
        for place, size in ends:
            output = output.narrow(place, 0, min(size, output.shape[place])) if place < output.ndim else output
        return output

    def compare(model: nn.Module) -> tuple[Tensor, Tensor]:
        return before(reference(model)), before(subject.logits(changed, model))

    def wrong() -> str:
        left, right = compare(subject.model)
        along = ends[0][0]
        if left.shape != right.shape or left.ndim <= along:
            return f"the logits change when {what} changes, and have no position axis that would show where (see shape_contract)"
        gaps = (left.double() - right.double()).abs().transpose(0, along).flatten(1).amax(1)
        reader = int(gaps.argmax()) if torch.isfinite(gaps).all() else len(gaps) - 1
        if is_text:
            return f"position {reader}'s logits change when {what} changes: the causal mask leaks"
        return f"position {reader}'s logits change when {what} changes: forward looks ahead along `{axis}`"

    def culprit(model: nn.Module) -> str:
        length = signature.complete(sizes.by_axis(subject.task))[axis]
        view = positions_view(sizes.batch, length, position)
        return first_divergence(record(subject, model, base), record(subject, model, changed), view)

    if any(size < 1 for _, size in ends):
        return Evidence("causal", Status.OK, f"the output has nothing before {what}")
    return judge_equal(
        subject,
        "causal",
        compare,
        wrong,
        f"{sizes.describe(subject.task)}, {what.replace(' ', '=', 1)}, seed={seed}",
        "a missing or shifted causal mask (off by one, wrong orientation, not applied in one layer or head), a bidirectional or "
        "centred layer, or a statistic over the sequence axis",
        culprit,
        code="reads_later_positions",
    )


def _swapped(each: Input, base: Tensor, others: Tensor, axis: str, position: int) -> Tensor:
    swapped = base.clone()
    for place, name in enumerate(each.axes[place] for place in rows_first(each.axes)):
        if name == axis:
            swapped.select(place, position).copy_(others.select(place, position))
    return swapped
