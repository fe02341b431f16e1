"""What an output may not depend on: the other rows, later tokens, padding."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from harness.batches import Batch, Sizes, other_tokens, pad_right, rows, swap_tokens
from harness.evidence import Evidence, Status
from harness.owners import owned_by
from harness.properties.calling import ModelRaisedError
from harness.properties.equality import first_failure, judge_equal, remembered
from harness.properties.gradient_tracing import is_finite, recording_graph
from harness.properties.noise import FACTOR, difference
from harness.properties.prerequisites import (
    LENGTH_FIRST_CAUSE,
    LENGTH_FIRST_OWNER,
    READS_LENGTH_FIRST,
    left_to_batch_independence,
)
from harness.properties.subject import Subject
from harness.properties.tracing import Call, first_divergence, positions_view, recording, row_view
from harness.wording import counted

Run = Callable[[nn.Module], Tensor]
"""From a model to its logits."""

_MOST_POSITIONS = 16


def batch_independence(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """Each row's logits stay the same when every other row is replaced, and when the row is alone.

    Args:
        subject: The model.
        sizes: At least two rows.
        seed: Seed of the rows' content.
    """
    base, others = subject.batch(sizes, seed), subject.batch(sizes, seed + 1)
    reference = remembered(subject, lambda model: subject.logits(base, model))
    return first_failure(_row_independence(subject, sizes, row, base, others, reference, seed) for row in range(sizes.batch))


def gradient_independence(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """The gradient of a row's logits with respect to the other rows' inputs is zero.

    Token ids have no gradient; that of the token embeddings' output stands in for it.
    """
    inputs, logits = _differentiable_inputs(subject, subject.batch(sizes, seed))
    if not inputs or not logits.requires_grad:
        return Evidence("batch_independence", Status.SKIPPED, "there is no embedding or floating-point input to differentiate")
    return first_failure(_row_gradient(subject, sizes, row, inputs, logits, seed) for row in range(sizes.batch))


def causality(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """The logits before a position stay the same when its token changes, for every position or, of a long sequence, a spread of them.

    Args:
        subject: A causal language model, or a seq2seq model whose decoder is meant.
        sizes: A sequence of at least two tokens.
        seed: Seed of the tokens.
    """
    base = subject.batch(sizes, seed)
    length = base[subject.task.causal_field].shape[1]
    others = other_tokens(subject.task, base[subject.task.causal_field], seed, subject.task.causal_field)
    reference = remembered(subject, lambda model: subject.logits(base, model))
    positions = torch.linspace(1, length - 1, min(length - 1, _MOST_POSITIONS)).round().long().unique().tolist()
    found = first_failure(_causal_at(subject, sizes, position, base, others, reference, seed) for position in positions)
    return left_to_batch_independence(subject, found)


def padding_ignored(subject: Subject, sizes: Sizes, lengths: tuple[int, ...], seed: int = 0) -> Evidence:
    """Each padded row gives the same logits alone and unpadded as padded on the right within a batch.

    Args:
        subject: A text model.
        sizes: Sizes of the padded batch.
        lengths: Real tokens of each row, between 1 and ``sizes.seq``.
        seed: Seed of the tokens.
    """
    if reason := _no_padding(subject):
        return Evidence("padding_ignored", Status.SKIPPED, reason)
    base = subject.batch(sizes, seed)
    padded = pad_right(subject.task, base, lengths, sizes.seq)
    reference = remembered(subject, lambda model: subject.logits(padded, model))
    short = [row for row in range(sizes.batch) if lengths[row] < sizes.seq]
    found = first_failure(_padding_of(subject, sizes, lengths, row, base, padded, reference, seed) for row in short)
    return left_to_batch_independence(subject, found)


def _no_padding(subject: Subject) -> str:
    """Why no row can be padded; empty where one can."""
    if (subject.task.max_seq_len or 0) <= subject.task.min_seq_len:
        return "all sequences have the same length, so there is no padding"
    if subject.task.pad_token_id is None and not subject.adapter.takes(subject.model, "attention_mask"):
        return "the task has no `pad_token_id` and forward takes no `attention_mask`"
    return ""


def _row_independence(
    subject: Subject, sizes: Sizes, row: int, base: Batch, others: Batch, reference: Run, seed: int
) -> Evidence:
    changed = {
        name: torch.cat((others[name][:row], value[row : row + 1], others[name][row + 1 :])) for name, value in base.items()
    }
    alone = rows(base, [row])

    def compare(model: nn.Module) -> tuple[Tensor, Tensor]:
        own = _row_of(reference(model), row, sizes.batch)
        by_itself = subject.logits(alone, model)
        # Logits that lost an axis are another property's matter; here they must only not be taken for a row.
        by_itself = by_itself[0] if by_itself.ndim == own.ndim + 1 else by_itself
        return max(
            ((own, _row_of(subject.logits(changed, model), row, sizes.batch)), (own, by_itself)),
            key=lambda pair: difference(*pair),
        )

    def culprit(model: nn.Module) -> str:
        single = Sizes(1, sizes.seq, sizes.target_seq, sizes.image)
        among = _record(subject, model, base)
        return first_divergence(among, _record(subject, model, changed), row_view(sizes, row)) or first_divergence(
            among, _record(subject, model, alone), row_view(sizes, row), row_view(single, 0)
        )

    told = f"row {row}'s logits change when the other rows of its batch change"
    usual = (
        "an operation over the batch axis: a norm or softmax on dim 0, a mean without dim, a reshape that mixes batch and sequence, "
        "batch statistics used in eval mode"
    )
    return judge_equal(
        subject,
        "batch_independence",
        compare,
        lambda: f"{told}: {READS_LENGTH_FIRST}" if subject.reads_length_first else told,
        f"{sizes.describe(subject.task)}, row={row}, seed={seed}",
        lambda: LENGTH_FIRST_CAUSE if subject.reads_length_first else usual,
        culprit,
    )


def _row_gradient(subject: Subject, sizes: Sizes, row: int, inputs: list[Tensor], logits: Tensor, seed: int) -> Evidence:
    _row_of(logits, row, sizes.batch)
    measured = _foreign_share(inputs, [logits], row, seed)
    bound = FACTOR * subject.floor.epsilon
    if math.isnan(measured):
        return Evidence(
            "batch_independence",
            Status.WARN,
            "gradients of the logits are not finite, so the rows they reach cannot be determined (see gradient_flow)",
            counterexample=f"{sizes.describe(subject.task)}, row={row}, seed={seed}",
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
        investigate=None if holds else lambda: _where_gradients_meet(subject, sizes, row, bound, seed),
    )


def _where_gradients_meet(subject: Subject, sizes: Sizes, row: int, bound: float, seed: int) -> str:
    """Path of the first module one row of whose outputs has a gradient at other rows of its inputs; empty where none stands out."""
    with recording_graph(subject.model) as calls:
        _differentiable_inputs(subject, subject.batch(sizes, seed))
    for call in calls:
        read, returned = (
            [tensor for tensor in tensors if tensor.requires_grad and tensor.ndim and len(tensor) == sizes.batch]
            for tensors in (call.inputs, call.outputs)
        )
        if read and returned and _foreign_share(read, returned, row, seed) > bound:
            return call.module
    return ""


def _foreign_share(read: list[Tensor], returned: list[Tensor], row: int, seed: int) -> float:
    """The largest gradient of a row of some outputs at other rows of the inputs, as a share of that at its own; NaN if one is not finite."""
    rng = torch.Generator().manual_seed(seed)
    weighted = [(tensor[row] * torch.randn(tensor[row].shape, generator=rng).to(tensor)).sum() for tensor in returned]
    gradients = torch.autograd.grad(torch.stack(weighted).sum(), read, allow_unused=True, retain_graph=True)
    own, foreign = 0.0, 0.0
    for gradient in gradients:
        if gradient is not None:
            if not is_finite(gradient):
                return float("nan")
            others = torch.cat((gradient[:row], gradient[row + 1 :]))
            own = max(own, float(gradient[row].abs().max()))
            foreign = max(foreign, difference(others, torch.zeros_like(others)))
    return foreign / own if own else foreign


def _causal_at(subject: Subject, sizes: Sizes, position: int, base: Batch, others: Tensor, reference: Run, seed: int) -> Evidence:
    field = subject.task.causal_field
    changed = {**base, field: swap_tokens(base[field], others, [position])}

    def compare(model: nn.Module) -> tuple[Tensor, Tensor]:
        return reference(model)[:, :position], subject.logits(changed, model)[:, :position]

    def wrong() -> str:
        left, right = compare(subject.model)
        if left.shape != right.shape or left.ndim < 2:
            return f"the logits change when token {position} changes, and have no position axis that would show where (see shape_contract)"
        gaps = (left.double() - right.double()).abs().transpose(0, 1).flatten(1).amax(1)
        reader = int(gaps.argmax()) if torch.isfinite(gaps).all() else position - 1
        return f"position {reader}'s logits change when token {position} changes: the causal mask leaks"

    def culprit(model: nn.Module) -> str:
        view = positions_view(len(base[field]), base[field].shape[1], position)
        return first_divergence(_record(subject, model, base), _record(subject, model, changed), view)

    return judge_equal(
        subject,
        "causal",
        compare,
        wrong,
        f"{sizes.describe(subject.task)}, token={position}, seed={seed}",
        "a missing or shifted causal mask (off by one, wrong orientation, not applied in one layer or head), a bidirectional or "
        "centred layer, or a statistic over the sequence axis",
        culprit,
    )


def _padding_of(
    subject: Subject, sizes: Sizes, lengths: tuple[int, ...], row: int, base: Batch, padded: Batch, reference: Run, seed: int
) -> Evidence:
    task, length = subject.task, lengths[row]
    alone = pad_right(task, rows(base, [row]), [length], length)

    def real(logits: Tensor) -> Tensor:
        return logits[:length] if task.is_per_position and not task.is_seq2seq else logits

    def compare(model: nn.Module) -> tuple[Tensor, Tensor]:
        return real(_row_of(subject.logits(alone, model), 0, 1)), real(_row_of(reference(model), row, sizes.batch))

    def culprit(model: nn.Module) -> str:
        # First at sizes that no two axes share: at small ones a source axis can be taken for a target axis.
        clear = subject.typical
        for padded_row in range(clear.batch):
            kept = tuple(max(1, clear.seq // 2) if index == padded_row else clear.seq for index in range(clear.batch))
            if module := _padding_trace(subject, model, clear, kept, padded_row, seed):
                return module
        return _padding_trace(subject, model, sizes, lengths, row, seed)

    takes_mask = subject.adapter.takes(subject.model, "attention_mask")
    return judge_equal(
        subject,
        "padding_ignored",
        compare,
        f"row {row}'s logits change after appending {counted(sizes.seq - length, 'padded position')} to its {counted(length, 'real token')}",
        f"{sizes.describe(task)}, lengths={list(lengths)}, seed={seed}",
        "a padding mask that is not applied (in one layer, in the pooling), is inverted, or is added with too small a number"
        if takes_mask
        else "a forward that takes no `attention_mask` and reads padding as text",
        culprit,
    )


def _padding_trace(subject: Subject, model: nn.Module, sizes: Sizes, lengths: tuple[int, ...], row: int, seed: int) -> str:
    """Path of the first module whose outputs at the real positions of a row differ between the row alone and padded."""
    base, length = subject.batch(sizes, seed), lengths[row]
    return first_divergence(
        _record(subject, model, pad_right(subject.task, rows(base, [row]), [length], length)),
        _record(subject, model, pad_right(subject.task, base, lengths, sizes.seq)),
        positions_view(1, length, length, row=0),
        positions_view(sizes.batch, sizes.seq, length, row=row),
    )


def _row_of(logits: Tensor, row: int, rows: int) -> Tensor:
    """A row of the logits.

    Raises:
        ModelRaisedError: There is not one for every row of the batch.
    """
    if logits.ndim == 0 or len(logits) != rows:
        raise ModelRaisedError("", ValueError(f"logits of shape {tuple(logits.shape)} for a batch of {rows}"))
    return logits[row]


def _record(subject: Subject, model: nn.Module, batch: Batch) -> list[Call]:
    with recording(model) as calls:
        subject.logits(batch, model)
    return calls


def _differentiable_inputs(subject: Subject, batch: Batch) -> tuple[list[Tensor], Tensor]:
    """Runs the model; returns its floating inputs and what the embeddings made of the batch's token ids, and the logits."""
    tokens = [tensor for name, tensor in batch.items() if name in subject.task.facts.inputs and name != "attention_mask"]
    captured: list[Tensor] = []
    turned = getattr(subject.adapter, "length_first", False)

    def keep(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        # Positions are embedded too, some by modules that are given the ids and return one row for all.
        read = args[0] if args else None
        if not isinstance(read, Tensor) or read.shape != output.shape[:-1]:
            return None
        if not any(torch.equal(read, ids.t() if turned else ids) for ids in tokens):
            return None
        # A leaf of its own: embeddings whose weights are frozen have no gradient either. Its first axis is the batch.
        leaf = (output.transpose(0, 1) if turned else output).detach().requires_grad_()
        captured.append(leaf)
        return leaf.transpose(0, 1) * 1 if turned else leaf * 1

    handles = [m.register_forward_hook(keep) for m in subject.model.modules() if isinstance(m, nn.Embedding)]
    fields = {
        name: value.detach().clone().requires_grad_() if value.is_floating_point() else value for name, value in batch.items()
    }
    # The model is given what follows from the leaves: one that writes into its inputs may not write into a leaf.
    given = {name: value * 1 if value.requires_grad else value for name, value in fields.items()}
    try:
        with torch.enable_grad():
            logits = subject.logits_with_grad(given)
    finally:
        for handle in handles:
            handle.remove()
    floating = [fields[name] for name in subject.task.facts.inputs if name in fields and fields[name].requires_grad]
    return floating + captured, logits
