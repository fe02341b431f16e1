"""Nothing looks ahead along a causal axis: what an output says of a position does not depend on what comes at that place or later."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from harness.batches import Batch, Sizes, other_batch, shares_rows, with_rows
from harness.evidence import Blame, Evidence
from harness.properties.independence import ends_along
from harness.properties.noise import Run, first_failure, judge_equal, judge_rows, remembered
from harness.properties.places import line_that_calls
from harness.properties.prerequisites import left_to_batch_independence
from harness.properties.reading import MOST, Reading, changes_along
from harness.properties.reshaped_axes import telling_sizes
from harness.properties.subject import Subject
from harness.properties.tracing import Call, calls_of, first_divergence, positions_view
from harness.tasks.axes import BATCH, rows_first
from harness.tasks.signature import Input
from harness.tasks.values import Ids, IndexOf, LengthsOf, MaskOf

_ATTENTION = ("softmax", "scaled_dot_product_attention", "multi_head_attention_forward", "_native_multi_head_attention")

_MASKING = ("triu", "tril", "triu_", "tril_")
"""Calls that make a causal mask."""

_MOST_POSITIONS, _FEW_POSITIONS = 16, 4
"""Positions that are changed along an axis, each in a row, and of a large model where so many rows are dear."""


def causality(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """The output before a position stays the same when what stands there changes, for every position or, of a long axis, a spread of them.

    Args:
        subject: A model with a causal axis.
        sizes: At least two positions along it.
        seed: Seed of the contents.
    """
    signature = subject.task.signature
    whole = signature.complete(sizes.by_axis(subject.task))
    wide = with_rows(subject.task, sizes, _MOST_POSITIONS)
    most = _FEW_POSITIONS if subject.reach.is_dear(wide) else _MOST_POSITIONS
    found: list[Evidence] = []
    for axis in signature.with_order("causal"):
        length = whole[axis.name]
        if (
            length >= 2
            and ends_along(signature, signature.main, axis.name, 1, whole)
            and any(True for _ in _read(subject, axis.name))
        ):
            found.append(_causal_along(subject, sizes, axis.name, _spread(length, most), seed))
    if not found:
        return Evidence.skipped("causal", f"`{signature.main.name}` has no two positions along a causal axis")
    return left_to_batch_independence(subject, first_failure(found))


def _spread(length: int, most: int) -> list[int]:
    places: list[int] = torch.linspace(1, length - 1, min(length - 1, most)).round().long().unique().tolist()
    return places


def _read(subject: Subject, axis: str) -> Iterator[Input]:
    """The inputs whose contents are read along an axis."""
    for each in subject.task.signature.inputs:
        if axis in each.axes and not each.state and not isinstance(each.values, (LengthsOf, MaskOf, IndexOf)):
            yield each


def _causal_along(subject: Subject, sizes: Sizes, axis: str, positions: list[int], seed: int) -> Evidence:
    """Judges positions along an axis: each is changed in its own row of as few calls as hold them, where rows may be shared."""
    signature, by_axis = subject.task.signature, sizes.by_axis(subject.task)
    ends = {position: ends_along(signature, signature.main, axis, position, by_axis) for position in positions}
    positions = [position for position in positions if all(size >= 1 for _, size in ends[position])]
    if not positions:
        return Evidence.ok("causal", f"the output has nothing before any position of `{axis}`")
    if not shares_rows(subject.task):
        return _causal_in_turn(subject, sizes, axis, positions, seed)
    wide = with_rows(subject.task, sizes, len(positions))
    base, others = _contents(subject, wide, seed)
    reference = subject.logits(base)
    calls = -(-len(positions) // wide.batch)
    pairs, asked = [], [positions[number % len(positions)] for number in range(calls * wide.batch)]
    for start in range(0, len(asked), wide.batch):
        own = asked[start : start + wide.batch]
        logits = subject.logits(_changed(subject, axis, own, base, others))
        for row, position in enumerate(own):
            left, right = (_before(output[row : row + 1], ends[position]) for output in (reference, logits))
            pairs.append((left, right))

    def by_itself(number: int) -> Evidence:
        found = (_causal_in_turn(subject, each, axis, [asked[number]], seed) for each in dict.fromkeys((sizes, wide)))
        return first_failure(found)

    return judge_rows(subject, "causal", pairs, by_itself, f"{wide.describe(subject.task)}, seed={seed}")


def _causal_in_turn(subject: Subject, sizes: Sizes, axis: str, positions: list[int], seed: int) -> Evidence:
    base, others = _contents(subject, sizes, seed)
    reference = remembered(subject, lambda model: subject.logits(base, model))
    return first_failure(_causal_at(subject, sizes, axis, position, base, others, reference, seed) for position in positions)


def _contents(subject: Subject, sizes: Sizes, seed: int) -> tuple[Batch, Batch]:
    """A batch, and another that differs from it everywhere."""
    base = subject.batch(sizes, seed)
    return base, other_batch(subject.task, base, subject.batch(sizes, seed + 10_007))


def _changed(subject: Subject, axis: str, positions: list[int], base: Batch, others: Batch) -> Batch:
    """A batch in each row of which another position along an axis holds something else."""
    read = [each for each in _read(subject, axis) if each.name in base]
    return {**base, **{each.name: _swapped(each, base[each.name], others[each.name], axis, positions) for each in read}}


def _before(output: Tensor, ends: list[tuple[int, int]]) -> Tensor:
    """Of an output what comes before a position, which ends where it is told for each of its axes that follow from the causal one."""
    for place, size in ends:
        output = output.narrow(place, 0, min(size, output.shape[place])) if place < output.ndim else output
    return output


def _causal_at(
    subject: Subject, sizes: Sizes, axis: str, position: int, base: Batch, others: Batch, reference: Run, seed: int
) -> Evidence:
    signature = subject.task.signature
    changed = _changed(subject, axis, [position] * sizes.batch, base, others)
    ends = ends_along(signature, signature.main, axis, position, sizes.by_axis(subject.task))
    is_text = all(isinstance(each.values, Ids) for each in _read(subject, axis) if each.name in base)
    what = f"token {position}" if is_text else f"position {position} of `{axis}`"

    def compare(model: nn.Module) -> tuple[Tensor, Tensor]:
        return _before(reference(model), ends), _before(subject.logits(changed, model), ends)

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

    def apart(model: nn.Module, at: Sizes, begins: int, one: Batch, other: Batch) -> tuple[Blame, list[Call]]:
        view = positions_view(at.batch, signature.complete(at.by_axis(subject.task))[axis], begins)
        left, right = (calls_of(model, partial(subject.logits, given)) for given in (one, other))
        return first_divergence(left, right, view), left

    def apart_at_telling_sizes(model: nn.Module) -> Iterator[tuple[Blame, list[Call]]]:
        """Other sizes first: where an axis is as long as another one, such as the heads, no view shows what lies before a position."""
        telling = telling_sizes(subject.task, sizes)
        length = signature.complete(telling.by_axis(subject.task))[axis]
        one, contents = _contents(subject, telling, seed)
        for begins in dict.fromkeys((position, length // 2, length - 1)) if telling != sizes else ():
            if 0 < begins < length:
                other = _changed(subject, axis, [begins] * telling.batch, one, contents)
                yield apart(model, telling, begins, one, other)

    def culprit(model: nn.Module) -> str:
        told = (each for each in apart_at_telling_sizes(model) if each[0])
        found, left = next(told, None) or apart(model, sizes, position, base, changed)
        # Attention mixes where its mask lets it: what is wrong is in the line that makes the mask.
        return Blame(found, line_that_calls(model, found, _MASKING) or found.place) if _mixes_by_attention(found, left) else found

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


def _swapped(each: Input, base: Tensor, others: Tensor, axis: str, positions: list[int]) -> Tensor:
    """An input with what others hold at a position along an axis: at another one in each row, where the input has rows."""
    swapped = base.clone()
    laid_out = [each.axes[place] for place in rows_first(each.axes)]
    for place, name in enumerate(laid_out):
        if name != axis:
            continue
        if BATCH not in laid_out:
            swapped.select(place, positions[0]).copy_(others.select(place, positions[0]))
            continue
        for row, position in enumerate(positions):
            swapped[row].select(place - 1, position).copy_(others[row].select(place - 1, position))
    return swapped


def positions_read(subject: Subject) -> Reading | None:
    """Which position of the output reads which position of the input, along the first causal axis; ``None`` where there is no such picture."""
    signature, sizes = subject.task.signature, subject.typical
    by_axis = sizes.by_axis(subject.task)
    axis = next((each.name for each in signature.with_order("causal") if any(True for _ in _read(subject, each.name))), None)
    if axis is None:
        return None
    length = signature.complete(by_axis)[axis]
    ends = {position: ends_along(signature, signature.main, axis, position, by_axis) for position in range(min(length, MOST))}
    if not ends.get(1):
        return None
    model, place = subject.fresh(), ends[1][0][0]
    base, others = _contents(subject, sizes, seed=0)
    reference = subject.logits(base, model)
    changed = [_changed(subject, axis, [position] * sizes.batch, base, others) for position in ends]
    columns = [changes_along(reference, subject.logits(batch, model), place)[:MOST] for batch in changed]
    rows = range(len(columns[0]))
    before = [next((size for at, size in ends[position] if at == place), 0) for position in ends]
    is_text = all(isinstance(each.values, Ids) for each in _read(subject, axis) if each.name in base)
    return Reading(
        f"Which position reads which {'token' if is_text else f'place of {axis}'}",
        tuple(f"position {row}" for row in rows),
        tuple(f"{'token' if is_text else axis} {position}" for position in ends),
        [[column[row] for column in columns] for row in rows],
        [[row < end for end in before] for row in rows],
        base,
        changed,
        lambda _output, position: positions_view(sizes.batch, length, position),
    )


def _mixes_by_attention(blame: Blame, calls: list[Call]) -> bool:
    """Whether a blamed line computes attention, as opposed to a mean or a convolution."""
    blamed = (step for call in calls if call.module == blame for step in call.steps if step.place == blame.place)
    return any(step.name in _ATTENTION for step in blamed)
