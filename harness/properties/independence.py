"""A row of the output does not depend on the other rows of its batch; its gradient is the matter of `gradients_of_rows`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from harness.batches import Batch, Sizes
from harness.evidence import Evidence
from harness.properties.calling import ModelRaisedError
from harness.properties.noise import difference, first_failure, judge_equal, judge_rows, remembered
from harness.properties.prerequisites import (
    LENGTH_FIRST_CAUSE,
    READS_LENGTH_FIRST,
)
from harness.properties.reading import MOST, Reading, changes_along
from harness.properties.subject import Subject
from harness.properties.tracing import View, calls_of, first_divergence, row_view
from harness.tasks.axes import BATCH, rows_first
from harness.tasks.signature import Output, Signature
from harness.tasks.values import IndexOf

Run = Callable[[nn.Module], Tensor]
"""From a model to its logits."""


def batch_independence(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """Each row's logits stay the same when every other row is replaced, and when the row is alone.

    Args:
        subject: The model.
        sizes: At least two rows.
        seed: Seed of the rows' content.
    """
    base, others = subject.batch(sizes, seed), subject.batch(sizes, seed + 1)
    reference = remembered(subject, lambda model: subject.logits(base, model))
    if BATCH in subject.task.signature.grouping:
        return first_failure(
            _group_independence(subject, sizes, row, base, others, reference, seed) for row in range(sizes.batch)
        )
    if BATCH not in subject.task.signature.main.axes:
        return _independence_of_parts(subject, sizes, base, others, reference, seed)
    pairs, asked = [], []
    for kept in _halves(sizes.batch, seed):
        logits = subject.logits(_with_rows_of(subject, base, others, kept))
        pairs += [(row_of(reference(subject.model), row, sizes.batch), row_of(logits, row, sizes.batch)) for row in kept]
        asked += kept
    row = 1 + seed % (sizes.batch - 1)  # the first row has the same place alone as in its batch
    own = row_of(reference(subject.model), row, sizes.batch)
    pairs.append((own, _alone(subject, base, row, own, subject.model)))
    asked.append(row)
    return judge_rows(
        subject,
        "batch_independence",
        pairs,
        lambda number: _row_independence(subject, sizes, asked[number], base, others, reference, seed),
        f"{sizes.describe(subject.task)}, seed={seed}",
    )


def _halves(rows: int, seed: int) -> list[list[int]]:
    """The rows in two parts, in another way for other seeds; a part with no row is left out."""
    bit = seed % max(1, (rows - 1).bit_length())
    parts = [[row for row in range(rows) if (row >> bit) & 1 == side] for side in (0, 1)]
    return [part for part in parts if part]


def _with_rows_of(subject: Subject, base: Batch, others: Batch, kept: Collection[int]) -> Batch:
    """A batch of which some rows are kept, and all others are those of another batch."""
    signature = subject.task.signature
    keeps = torch.tensor([row in kept for row in range(signature.row_count(base))])

    def mixed(value: Tensor, other: Tensor) -> Tensor:
        return torch.where(keeps.to(value.device).reshape(-1, *[1] * (value.ndim - 1)), value, other)

    return {name: mixed(value, others[name]) if BATCH in signature.axes_of(name) else value for name, value in base.items()}


def _alone(subject: Subject, batch: Batch, row: int, own: Tensor, model: nn.Module) -> Tensor:
    """The logits of a row that is called by itself, as its own within the batch are; the latter where no batch of one is allowed."""
    rows = subject.task.signature.axes.get(BATCH)
    if rows is not None and not rows.allows(1):
        return own
    logits = subject.logits(subject.task.signature.rows(batch, [row]), model)
    # Logits that lost an axis are another property's matter; here they must only not be taken for a row.
    return logits[0] if logits.ndim == own.ndim + 1 else logits


def rows_read(subject: Subject) -> Reading | None:
    """Which row of the output reads which row of the batch; ``None`` where rows are not whole."""
    signature, sizes = subject.task.signature, subject.typical
    if BATCH in signature.grouping or BATCH not in signature.main.axes or sizes.batch < 2:
        return None
    model, rows = subject.fresh(), range(min(sizes.batch, MOST))
    base, others = subject.batch(sizes, 0), subject.batch(sizes, 1)
    reference = subject.logits(base, model)
    changed = [_with_rows_of(subject, base, others, [row for row in range(sizes.batch) if row != each]) for each in rows]
    columns = [changes_along(reference, subject.logits(batch, model), 0) for batch in changed]
    return Reading(
        "Which row reads which row",
        tuple(f"row {row} of the output" for row in rows),
        tuple(f"row {row}" for row in rows),
        [[column[row] for column in columns] for row in rows],
        [[row != other for other in rows] for row in rows],
        base,
        changed,
        lambda output, _input: row_view(sizes, output),
    )


def ends_along(signature: Signature, output: Output, axis: str, size: int, sizes: Mapping[str, int]) -> list[tuple[int, int]]:
    """Where an output ends when an axis has another size: each place in its shape that follows from the axis, with its size there.

    Args:
        signature: What the output is one of.
        output: The output, with its rows first.
        axis: A free axis.
        size: Its size.
        sizes: Those of the others.
    """
    whole = signature.complete({**sizes, axis: size})
    laid_out = [output.axes[place] for place in rows_first(output.axes)]
    named = [(place, name) for place, name in enumerate(laid_out) if isinstance(name, str)]
    return [(place, whole[name]) for place, name in named if signature.axes[name].follows(axis)]


def _row_independence(
    subject: Subject, sizes: Sizes, row: int, base: Batch, others: Batch, reference: Run, seed: int
) -> Evidence:
    signature = subject.task.signature
    changed, alone = _with_rows_of(subject, base, others, [row]), signature.rows(base, [row])

    def compare(model: nn.Module) -> tuple[Tensor, Tensor]:
        own = row_of(reference(model), row, sizes.batch)
        among = row_of(subject.logits(changed, model), row, sizes.batch)
        return max(((own, among), (own, _alone(subject, base, row, own, model))), key=lambda pair: difference(*pair))

    def culprit(model: nn.Module) -> str:
        single = Sizes(1, sizes.seq, sizes.target_seq, sizes.image)
        among, replaced, by_itself = (calls_of(model, partial(subject.logits, given)) for given in (base, changed, alone))
        in_batch = row_view(sizes, row)
        return first_divergence(among, replaced, in_batch) or first_divergence(among, by_itself, in_batch, row_view(single, 0))

    told = f"row {row}'s logits change when the other rows of its batch change"
    usual = (
        "an operation over the batch axis: a norm or softmax on dim 0, a mean without dim, a reshape that mixes batch and sequence, "
        "batch statistics used in eval mode"
    )
    if joined := signature.main.joined:
        axis = next(each for each in joined if each not in signature.main.axes)
        usual = f"{usual}; or `axes.{axis}.from` has its axes in another order than forward joins them, the outer one first"
    return judge_equal(
        subject,
        "batch_independence",
        compare,
        lambda: f"{told}: {READS_LENGTH_FIRST}" if subject.reads_length_first else told,
        f"{sizes.describe(subject.task)}, row={row}, seed={seed}",
        lambda: LENGTH_FIRST_CAUSE if subject.reads_length_first else usual,
        culprit,
        code="reads_other_rows",
    )


def _group_independence(
    subject: Subject, sizes: Sizes, group: int, base: Batch, others: Batch, reference: Run, seed: int
) -> Evidence:
    """What a group's elements give stays the same when those of all other groups hold something else, as the graphs of a batch."""
    signature = subject.task.signature
    changed = {
        name: torch.cat((others[name][:group], value[group : group + 1], others[name][group + 1 :]))
        if BATCH in signature.axes_of(name)
        else value
        for name, value in base.items()
    }
    for each in signature.inputs:
        axis = next((axis for axis in each.axes if axis in signature.grouped_axes), None)
        if axis is None or isinstance(each.values, IndexOf) or each.name not in base:
            continue
        place = each.axes.index(axis)
        own = (base[signature.grouped_axes[str(axis)].name] == group).nonzero().flatten()
        changed[each.name] = others[each.name].index_copy(place, own, base[each.name].index_select(place, own))

    def compare(model: nn.Module) -> tuple[Tensor, Tensor]:
        left, right = reference(model), subject.logits(changed, model)
        return row_of(left, group, sizes.batch), row_of(right, group, sizes.batch)

    return judge_equal(
        subject,
        "batch_independence",
        compare,
        f"what group {group} gives changes when the other groups of its batch change",
        f"{sizes.describe(subject.task)}, group={group}, seed={seed}",
        "a mean, a norm or an attention over the elements of all groups, or an index of groups that is shifted",
        lambda model: first_divergence(
            calls_of(model, partial(subject.logits, base)),
            calls_of(model, partial(subject.logits, changed)),
            _view_of_group(signature, base, group, sizes.batch),
        ),
        code="reads_other_groups",
    )


def _view_of_group(signature: Signature, base: Batch, group: int, groups: int) -> View:
    """Of tensors that begin with the elements of all groups, or with the groups, what belongs to one of them."""
    members = {len(base[each.name]): (base[each.name] == group).nonzero().flatten() for each in signature.grouped_axes.values()}

    def view(tensor: Tensor) -> Tensor | None:
        if tensor.ndim == 0:
            return None
        own = members.get(len(tensor))
        return tensor[own] if own is not None else tensor[group] if len(tensor) == groups else None

    return view


def _independence_of_parts(subject: Subject, sizes: Sizes, base: Batch, others: Batch, reference: Run, seed: int) -> Evidence:
    """Each element of an axis that is rows times others changes with one row only, whatever the order of its elements is."""
    own = reference(subject.model)
    changes = []
    for row in range(sizes.batch):
        changed = _with_rows_of(subject, base, others, [each for each in range(sizes.batch) if each != row])
        other = subject.logits(changed)
        if not own.ndim or other.shape != own.shape:
            return Evidence.skipped("batch_independence", "the number of its elements follows from what the rows hold")
        changes.append((own - other).abs().double().flatten(1).amax(1) if own.ndim > 1 else (own - other).abs().double())
    belongs = torch.stack(changes).argmax(0)

    def judge(row: int) -> Evidence:
        mine, changed = belongs == row, _with_rows_of(subject, base, others, [row])
        return judge_equal(
            subject,
            "batch_independence",
            lambda model: (reference(model)[mine], subject.logits(changed, model)[mine]),
            f"the logits of what belongs to row {row} change when the other rows of its batch change",
            f"{sizes.describe(subject.task)}, row={row}, seed={seed}",
            "an operation over elements of several rows, after they were put into one axis: a convolution, an attention or a mean",
            lambda model: first_divergence(
                calls_of(model, partial(subject.logits, base)),
                calls_of(model, partial(subject.logits, changed)),
                row_view(sizes, row),
            ),
            code="reads_other_rows",
        )

    return first_failure(judge(row) for row in range(sizes.batch) if bool((belongs == row).any()))


def row_of(logits: Tensor, row: int, rows: int) -> Tensor:
    """A row of the logits.

    Raises:
        ModelRaisedError: There is not one for every row of the batch.
    """
    if logits.ndim == 0 or len(logits) != rows:
        raise ModelRaisedError("", ValueError(f"logits of shape {tuple(logits.shape)} for a batch of {rows}"))
    return logits[row]
