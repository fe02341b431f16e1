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
from harness.properties.prerequisites import LENGTH_FIRST_CAUSE, READS_LENGTH_FIRST
from harness.properties.reading import MOST, Reading, changes_along
from harness.properties.subject import Subject
from harness.properties.tracing import View, calls_of, first_divergence, row_view
from harness.tasks.axes import BATCH, rows_first
from harness.tasks.signature import Output, Signature
from harness.tasks.values import IndexOf

_NAME = "batch_independence"


def batch_independence(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """Each row's logits stay the same when every other row is replaced, and when the row is alone.

    Args:
        subject: The model.
        sizes: At least two rows.
        seed: Seed of the rows' content.
    """
    exchange = _Exchange(subject, sizes, seed)
    if BATCH in subject.task.signature.grouping:
        return first_failure(exchange.judge_group(group) for group in range(sizes.batch))
    if BATCH not in subject.task.signature.main.axes:
        return exchange.judge_parts()
    base, reference = exchange.base, exchange.reference
    pairs, asked = [], []
    for kept in _halves(sizes.batch, seed):
        logits = subject.logits(exchange.keeping(kept))
        pairs += [(row_of(reference(subject.model), row, sizes.batch), row_of(logits, row, sizes.batch)) for row in kept]
        asked += kept
    row = 1 + seed % (sizes.batch - 1)  # the first row has the same place alone as in its batch
    own = row_of(reference(subject.model), row, sizes.batch)
    pairs.append((own, _alone(subject, base, row, own, subject.model)))
    asked.append(row)
    return judge_rows(
        subject,
        _NAME,
        pairs,
        lambda number: exchange.judge_row(asked[number]),
        f"{sizes.describe(subject.task)}, seed={seed}",
    )


def _halves(rows: int, seed: int) -> list[list[int]]:
    """The rows in two parts, in another way for other seeds; a part with no row is left out."""
    bit = seed % max(1, (rows - 1).bit_length())
    parts = [[row for row in range(rows) if (row >> bit) & 1 == side] for side in (0, 1)]
    return [part for part in parts if part]


class _Exchange:
    """Two batches of the same sizes: some rows of one are kept, and those of the other take the place of the rest."""

    def __init__(self, subject: Subject, sizes: Sizes, seed: int) -> None:
        self.subject, self.sizes, self.seed = subject, sizes, seed
        self.base, self.others = subject.batch(sizes, seed), subject.batch(sizes, seed + 1)
        self.reference = remembered(subject, partial(subject.logits, self.base))

    def keeping(self, kept: Collection[int]) -> Batch:
        """The first batch with some of its rows, and all others from the second."""
        signature = self.subject.task.signature
        keeps = torch.tensor([row in kept for row in range(signature.row_count(self.base))])

        def mixed(value: Tensor, other: Tensor) -> Tensor:
            return torch.where(keeps.to(value.device).reshape(-1, *[1] * (value.ndim - 1)), value, other)

        return {
            name: mixed(value, self.others[name]) if BATCH in signature.axes_of(name) else value
            for name, value in self.base.items()
        }

    def judge_row(self, row: int) -> Evidence:
        """A row's logits stay the same when the other rows are exchanged, and when it is alone."""
        subject, sizes, base = self.subject, self.sizes, self.base
        signature = subject.task.signature
        changed, alone = self.keeping([row]), signature.rows(base, [row])

        def compare(model: nn.Module) -> tuple[Tensor, Tensor]:
            own = row_of(self.reference(model), row, sizes.batch)
            among = row_of(subject.logits(changed, model), row, sizes.batch)
            return max(((own, among), (own, _alone(subject, base, row, own, model))), key=lambda pair: difference(*pair))

        def culprit(model: nn.Module) -> str:
            single = Sizes(1, sizes.seq, sizes.target_seq, sizes.image)
            among, replaced, by_itself = (calls_of(model, partial(subject.logits, given)) for given in (base, changed, alone))
            in_batch = row_view(sizes, row)
            return first_divergence(among, replaced, in_batch) or first_divergence(
                among, by_itself, in_batch, row_view(single, 0)
            )

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
            _NAME,
            compare,
            lambda: f"{told}: {READS_LENGTH_FIRST}" if subject.reads_length_first else told,
            self._at(f"row={row}"),
            lambda: LENGTH_FIRST_CAUSE if subject.reads_length_first else usual,
            culprit,
            code="reads_other_rows",
        )

    def judge_group(self, group: int) -> Evidence:
        """What a group's elements give stays the same when those of all other groups are exchanged, as the graphs of a batch."""
        subject, base, others, groups = self.subject, self.base, self.others, self.sizes.batch
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
            left, right = self.reference(model), subject.logits(changed, model)
            return row_of(left, group, groups), row_of(right, group, groups)

        return judge_equal(
            subject,
            _NAME,
            compare,
            f"what group {group} gives changes when the other groups of its batch change",
            self._at(f"group={group}"),
            "a mean, a norm or an attention over the elements of all groups, or an index of groups that is shifted",
            self._culprit(changed, _view_of_group(signature, base, group, groups)),
            code="reads_other_groups",
        )

    def judge_parts(self) -> Evidence:
        """Each element of an axis that is rows times others changes with one row only, whatever the order of its elements is."""
        own, rows = self.reference(self.subject.model), range(self.sizes.batch)
        changes = []
        for row in rows:
            other = self.subject.logits(self.keeping([each for each in rows if each != row]))
            if not own.ndim or other.shape != own.shape:
                return Evidence.skipped(_NAME, "the number of its elements follows from what the rows hold")
            changes.append((own - other).abs().double().flatten(1).amax(1) if own.ndim > 1 else (own - other).abs().double())
        belongs = torch.stack(changes).argmax(0)
        return first_failure(self._judge_part(row, belongs == row) for row in rows if bool((belongs == row).any()))

    def _judge_part(self, row: int, mine: Tensor) -> Evidence:
        changed = self.keeping([row])
        return judge_equal(
            self.subject,
            _NAME,
            lambda model: (self.reference(model)[mine], self.subject.logits(changed, model)[mine]),
            f"the logits of what belongs to row {row} change when the other rows of its batch change",
            self._at(f"row={row}"),
            "an operation over elements of several rows, after they were put into one axis: a convolution, an attention or a mean",
            self._culprit(changed, row_view(self.sizes, row)),
            code="reads_other_rows",
        )

    def _at(self, which: str) -> str:
        return f"{self.sizes.describe(self.subject.task)}, {which}, seed={self.seed}"

    def _culprit(self, changed: Batch, view: View) -> Callable[[nn.Module], str]:
        """Finds the first module that reads what was exchanged."""

        def culprit(model: nn.Module) -> str:
            left, right = (calls_of(model, partial(self.subject.logits, batch)) for batch in (self.base, changed))
            return first_divergence(left, right, view)

        return culprit


def _view_of_group(signature: Signature, base: Batch, group: int, groups: int) -> View:
    """Of tensors that begin with the elements of all groups, or with the groups, what belongs to one of them."""
    members = {len(base[each.name]): (base[each.name] == group).nonzero().flatten() for each in signature.grouped_axes.values()}

    def view(tensor: Tensor) -> Tensor | None:
        if tensor.ndim == 0:
            return None
        own = members.get(len(tensor))
        return tensor[own] if own is not None else tensor[group] if len(tensor) == groups else None

    return view


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
    exchange = _Exchange(subject, sizes, 0)
    reference = subject.logits(exchange.base, model)
    changed = [exchange.keeping([row for row in range(sizes.batch) if row != each]) for each in rows]
    columns = [changes_along(reference, subject.logits(batch, model), 0) for batch in changed]
    return Reading(
        "Which row reads which row",
        tuple(f"row {row} of the output" for row in rows),
        tuple(f"row {row}" for row in rows),
        [[column[row] for column in columns] for row in rows],
        [[row != other for other in rows] for row in rows],
        exchange.base,
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


def row_of(logits: Tensor, row: int, rows: int) -> Tensor:
    """A row of the logits.

    Raises:
        ModelRaisedError: There is not one for every row of the batch.
    """
    if logits.ndim == 0 or len(logits) != rows:
        raise ModelRaisedError("", ValueError(f"logits of shape {tuple(logits.shape)} for a batch of {rows}"))
    return logits[row]
