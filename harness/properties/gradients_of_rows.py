"""The gradient of each row's logits reaches only the row's own inputs, and where it goes astray if not."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from harness.batches import Batch, Sizes
from harness.evidence import Blame, Evidence, Status
from harness.owners import owned_by
from harness.properties.computed_dtypes import HIDDEN_BY, MARGIN, hidden_by, in_float64
from harness.properties.gradient_tracing import GraphLines, is_finite, recording_graph
from harness.properties.independence import row_of
from harness.properties.large_tensors import largest_absolute
from harness.properties.noise import FACTOR, first_failure
from harness.properties.prerequisites import (
    LENGTH_FIRST_CAUSE,
    LENGTH_FIRST_OWNER,
    READS_LENGTH_FIRST,
)
from harness.properties.subject import Subject
from harness.tasks.axes import BATCH
from harness.tasks.signature import Input, Signature
from harness.tasks.values import Ids


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
    elements = _read_by_groups(signature)
    inputs, logits = _differentiable_inputs(subject, batch, model, [each.name for each in elements])
    if not inputs or not logits.requires_grad:
        return Evidence.skipped("batch_independence", "there is no embedding or floating-point input to differentiate")
    groups = batch[signature.grouped_axes[str(elements[0].axes[0])].name] if elements else None

    def where_they_meet(row: int) -> Blame:
        return _where_gradients_meet(subject, sizes, row, bound, seed, model, groups)

    def judge(row: int) -> Evidence:
        row_of(logits, row, sizes.batch)
        measured = _foreign_share(inputs, [logits], row, seed, groups)
        return _row_gradient(subject, sizes, row, seed, measured, bound, where_they_meet)

    return first_failure(map(judge, range(sizes.batch)))


def _read_by_groups(signature: Signature) -> list[Input]:
    """The inputs with the elements of all groups; none where rows are not groups."""
    grouped = signature.grouped_axes if BATCH in signature.grouping else {}
    return [each for each in signature.inputs if each.axes and each.axes[0] in grouped]


def _row_gradient(
    subject: Subject, sizes: Sizes, row: int, seed: int, measured: float, bound: float, where: Callable[[int], str]
) -> Evidence:
    if math.isnan(measured):
        return Evidence.warned(
            "batch_independence",
            "gradients of the logits are not finite, so the rows they reach cannot be determined (see gradient_flow)",
            counterexample=f"{sizes.describe(subject.task)}, row={row}, seed={seed}",
            code="gradient_not_finite",
        )
    holds = measured <= bound
    turned = not holds and subject.reads_length_first
    told = f"the gradient of row {row}'s logits reaches the inputs of other rows"
    usual = "an operation over the batch axis whose forward value hides it, or a custom autograd function"
    return Evidence.judged(
        "batch_independence",
        Status.OK if holds else Status.FAIL,
        "no gradient reaches the other rows" if holds else (f"{told}: {READS_LENGTH_FIRST}" if turned else told),
        (measured, bound, "of the row's own gradient"),
        counterexample=f"{sizes.describe(subject.task)}, row={row}, seed={seed}",
        cause="" if holds else (LENGTH_FIRST_CAUSE if turned else usual),
        details=owned_by(LENGTH_FIRST_OWNER) if turned else {},
        investigate=None if holds else partial(where, row),
        code="" if holds else "gradient_of_other_rows",
    )


def _where_gradients_meet(
    subject: Subject, sizes: Sizes, row: int, bound: float, seed: int, model: nn.Module, groups: Tensor | None
) -> Blame:
    """The first module one row of whose outputs has a gradient at other rows of its inputs, and the line that does it."""
    own = {sizes.batch: torch.arange(sizes.batch) == row} | ({} if groups is None else {len(groups): groups.cpu() == row})

    def is_own(gradient: Tensor) -> bool:
        known = own.get(len(gradient)) if gradient.ndim else None
        return known is None or largest_absolute(gradient[~known.to(gradient.device)]) <= bound * largest_absolute(gradient)

    with recording_graph(model) as calls, GraphLines(is_own) as lines:
        names = [each.name for each in _read_by_groups(subject.task.signature)]
        inputs, logits = _differentiable_inputs(subject, subject.batch(sizes, seed), model, names)
    _foreign_share(inputs, [logits], row, seed, groups)
    place = lines.line_of_bad_gradient()
    for call in calls if groups is None else []:
        both = (call.inputs, call.outputs)
        read, returned = ([t for t in each if t.requires_grad and t.ndim and len(t) == sizes.batch] for each in both)
        if read and returned and _foreign_share(read, returned, row, seed) > bound:
            return Blame(call.module, place)
    return Blame("", place)


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
            own, foreign = max(own, largest_absolute(gradient[is_own])), max(foreign, largest_absolute(gradient[~is_own]))
    return foreign / own if own else foreign


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
    reads = _reads_of_tables(subject, batch, model) if tokens else []
    if tokens and all(_is_turned(read, tokens) is None for read in reads):  # shifted, or offset, in forward
        tokens = _reads_by_row(subject, batch, model, reads)
    captured: list[Tensor] = []

    def keep(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        # Positions are embedded too, some by modules that are given the ids and return one row for all.
        read = args[0] if args else None
        if not isinstance(read, Tensor) or read.shape != output.shape[:-1] or (turned := _is_turned(read, tokens)) is None:
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


def _is_turned(read: Tensor, tokens: list[Tensor]) -> bool | None:
    """Whether a table that reads some ids is given them as ``[length, batch]``; ``None`` where it does not read them."""
    if any(torch.equal(read, ids) for ids in tokens):
        return False
    return True if read.ndim == 2 and any(torch.equal(read.t(), ids) for ids in tokens) else None


def _reads_of_tables(subject: Subject, batch: Batch, model: nn.Module) -> list[Tensor]:
    """What the tables of embeddings are given in a call."""
    reads: list[Tensor] = []

    def note(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        reads.extend(each for each in args[:1] if isinstance(each, Tensor))

    handles = [m.register_forward_pre_hook(note) for m in model.modules() if isinstance(m, nn.Embedding)]
    try:
        subject.logits(batch, model)
    finally:
        for handle in handles:
            handle.remove()
    return reads


def _reads_by_row(subject: Subject, batch: Batch, model: nn.Module, reads: list[Tensor]) -> list[Tensor]:
    """Of what tables are given that which holds the rows in order: with the rows turned round it is the same turned round."""
    rows = subject.task.signature.row_count(batch)
    turned = _reads_of_tables(subject, subject.task.signature.rows(batch, [*reversed(range(rows))]), model)
    pairs = zip(reads, turned, strict=False)
    return [
        a
        for a, b in pairs
        if a.ndim and len(a) == rows and a.shape == b.shape and torch.equal(a.flip(0), b) and not torch.equal(a, b)
    ]
