"""A row of the output does not depend on the other rows of its batch, nor does its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from harness.batches import Batch, Sizes
from harness.evidence import Evidence, Status
from harness.owners import owned_by
from harness.properties.calling import ModelRaisedError
from harness.properties.computed_dtypes import HIDDEN_BY, MARGIN, hidden_by, in_float64
from harness.properties.gradient_tracing import is_finite, recording_graph
from harness.properties.noise import FACTOR, difference, first_failure, judge_equal, judge_rows, remembered
from harness.properties.prerequisites import (
    LENGTH_FIRST_CAUSE,
    LENGTH_FIRST_OWNER,
    READS_LENGTH_FIRST,
)
from harness.properties.reading import MOST, Reading, changes_along
from harness.properties.subject import Subject
from harness.properties.tracing import calls_of, first_divergence, row_view
from harness.tasks.axes import BATCH, rows_first
from harness.tasks.signature import Output, Signature
from harness.tasks.values import Ids, IndexOf

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


def gradient_independence(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """The gradient of a row's logits with respect to the other rows' inputs is zero.

    Token ids have no gradient; that of the token embeddings' output stands in for it.
    """
    found = _gradients_of_rows(subject, sizes, seed, subject.model, FACTOR * subject.floor.epsilon)
    if found.status is not Status.OK:
        return found
    bound = FACTOR * MARGIN * torch.finfo(torch.float32).eps
    finer = in_float64(subject, found.name, lambda model: _gradients_of_rows(subject, sizes, seed, model, bound))
    if finer is None or finer[1].status is not Status.FAIL:
        return found
    details = hidden_by(subject)
    unit = f"{finer[1].unit} in float64; rounding in {details[HIDDEN_BY]} hides it"
    return replace(finer[1], unit=unit, details={**finer[1].details, **details})


def _gradients_of_rows(subject: Subject, sizes: Sizes, seed: int, model: nn.Module, bound: float) -> Evidence:
    batch, signature = subject.batch(sizes, seed), subject.task.signature
    grouped = BATCH in signature.grouping
    elements = [each for each in signature.inputs if each.axes and each.axes[0] in signature.grouped_axes]
    inputs, logits = _differentiable_inputs(subject, batch, model, [each.name for each in elements] if grouped else ())
    if not inputs or not logits.requires_grad:
        return Evidence.skipped("batch_independence", "there is no embedding or floating-point input to differentiate")
    groups = batch[signature.grouped_axes[str(elements[0].axes[0])].name] if grouped else None

    def where_they_meet(row: int) -> str:
        return "" if grouped else _where_gradients_meet(subject, sizes, row, bound, seed, model)

    def judge(row: int) -> Evidence:
        row_of(logits, row, sizes.batch)
        measured = _foreign_share(inputs, [logits], row, seed, groups)
        return _row_gradient(subject, sizes, row, seed, measured, bound, where_they_meet)

    return first_failure(map(judge, range(sizes.batch)))


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
        code="reads_other_groups",
    )


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


def _row_gradient(
    subject: Subject, sizes: Sizes, row: int, seed: int, measured: float, bound: float, where: Callable[[int], str]
) -> Evidence:
    if math.isnan(measured):
        return Evidence(
            "batch_independence",
            Status.WARN,
            "gradients of the logits are not finite, so the rows they reach cannot be determined (see gradient_flow)",
            counterexample=f"{sizes.describe(subject.task)}, row={row}, seed={seed}",
            code="gradient_not_finite",
        )
    holds = measured <= bound
    turned = not holds and subject.reads_length_first
    told = f"the gradient of row {row}'s logits reaches the inputs of other rows"
    usual = "an operation over the batch axis whose forward value hides it, or a custom autograd function"
    return Evidence(
        "batch_independence",
        Status.OK if holds else Status.FAIL,
        "no gradient reaches the other rows" if holds else (f"{told}: {READS_LENGTH_FIRST}" if turned else told),
        measured,
        bound,
        "of the row's own gradient",
        f"{sizes.describe(subject.task)}, row={row}, seed={seed}",
        cause="" if holds else (LENGTH_FIRST_CAUSE if turned else usual),
        details=owned_by(LENGTH_FIRST_OWNER) if turned else {},
        investigate=None if holds else partial(where, row),
        code="" if holds else "gradient_of_other_rows",
    )


def _where_gradients_meet(subject: Subject, sizes: Sizes, row: int, bound: float, seed: int, model: nn.Module) -> str:
    """Path of the first module one row of whose outputs has a gradient at other rows of its inputs; empty where none stands out."""
    with recording_graph(model) as calls:
        _differentiable_inputs(subject, subject.batch(sizes, seed), model)
    for call in calls:
        read, returned = (
            [tensor for tensor in tensors if tensor.requires_grad and tensor.ndim and len(tensor) == sizes.batch]
            for tensors in (call.inputs, call.outputs)
        )
        if read and returned and _foreign_share(read, returned, row, seed) > bound:
            return call.module
    return ""


def _foreign_share(read: list[Tensor], returned: list[Tensor], row: int, seed: int, groups: Tensor | None = None) -> float:
    """The largest gradient of a row of some outputs at other rows of the inputs, as a share of that at its own; NaN if one is not finite.

    Where rows are groups of elements, the inputs have the elements of all groups, and ``groups`` says to which each belongs.
    """
    rng = torch.Generator().manual_seed(seed)
    weighted = [(tensor[row] * torch.randn(tensor[row].shape, generator=rng).to(tensor)).sum() for tensor in returned]
    gradients = torch.autograd.grad(torch.stack(weighted).sum(), read, allow_unused=True, retain_graph=True)
    own, foreign = 0.0, 0.0
    for gradient in gradients:
        if gradient is not None:
            if not is_finite(gradient):
                return float("nan")
            is_own = (torch.arange(len(gradient)) if groups is None else groups).to(gradient.device) == row
            # A group may be without elements, or have all of them.
            own, foreign = max(own, _largest(gradient[is_own])), max(foreign, _largest(gradient[~is_own]))
    return foreign / own if own else foreign


def _largest(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0


def row_of(logits: Tensor, row: int, rows: int) -> Tensor:
    """A row of the logits.

    Raises:
        ModelRaisedError: There is not one for every row of the batch.
    """
    if logits.ndim == 0 or len(logits) != rows:
        raise ModelRaisedError("", ValueError(f"logits of shape {tuple(logits.shape)} for a batch of {rows}"))
    return logits[row]


def _differentiable_inputs(
    subject: Subject, batch: Batch, model: nn.Module, elements: Collection[str] = ()
) -> tuple[list[Tensor], Tensor]:
    """Runs the model; returns its floating inputs and what the embeddings made of the batch's token ids, and the logits.

    Where rows are groups, ``elements`` names the inputs that have the elements of all groups, and only those are returned.
    """
    ids = {each.name for each in subject.task.signature.inputs if isinstance(each.values, Ids)}
    signature = subject.task.signature
    with_rows = elements or [name for name in subject.task.facts.inputs if BATCH in signature.axes_of(name)]
    tokens = [tensor for name, tensor in batch.items() if name in ids and name in with_rows]
    captured: list[Tensor] = []
    turned = getattr(subject.adapter, "length_first", False)

    def keep(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        # Positions are embedded too, some by modules that are given the ids and return one row for all.
        read = args[0] if args else None
        if not isinstance(read, Tensor) or read.shape != output.shape[:-1]:
            return None
        if not any(torch.equal(read, ids.t() if turned else ids) for ids in tokens):
            return None
        # A new leaf: embeddings whose weights are frozen have no gradient either. Its first axis is the batch.
        leaf = (output.transpose(0, 1) if turned else output).detach().requires_grad_()
        captured.append(leaf)
        return leaf.transpose(0, 1) * 1 if turned else leaf * 1

    handles = [m.register_forward_hook(keep) for m in model.modules() if isinstance(m, nn.Embedding)]
    fields = {
        name: value.detach().clone().requires_grad_() if value.is_floating_point() else value for name, value in batch.items()
    }
    # The model is given what follows from the leaves: one that writes into its inputs may not write into a leaf.
    given = {name: value * 1 if value.requires_grad else value for name, value in fields.items()}
    try:
        with torch.enable_grad():
            logits = subject.logits_with_grad(given, model)
    finally:
        for handle in handles:
            handle.remove()
    floating = [fields[name] for name in with_rows if name in fields and fields[name].requires_grad]
    return floating + captured, logits
