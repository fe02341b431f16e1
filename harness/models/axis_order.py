"""Whether a model reads token ids as ``[length, batch]``, which ``nn.RNN`` and ``nn.Transformer`` do by default."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from harness.adapters import Adapter, CallPlan, find_logits
from harness.batches import Batch, make_batch, other_tokens, typical_sizes
from harness.errors import UserError
from harness.models.copies import Copies
from harness.runtime import seeded
from harness.tasks import TaskSpec

_RESOLUTION = 1e-5
"""Relative change of the logits that may be rounding."""


def reads_length_first(model: nn.Module, plan: CallPlan, task: TaskSpec) -> bool:
    """Whether a model fits its task when token ids are passed as ``[length, batch]``, and does not as ``[batch, length]``.

    The shape decides where it can: the logits have the promised shape for transposed ids only. Where both calls have the promised
    shape, dependence decides: the second axis is the batch if its entries never mix, while those of the first axis do. A model in
    which ``batch_first=True`` was forgotten in every layer computes the same function, so a caller must say what was concluded.

    Args:
        model: The model, in eval mode; copies of it are called.
        plan: How it is called with ``[batch, length]``.
        task: A text task; of any other the answer is no.
    """
    if not task.is_text or plan.whole:
        return False
    sizes = typical_sizes(task)
    batch, expected = make_batch(task, sizes), sizes.logits_shape(task)
    turned = _shape(_called(model, replace(plan, length_first=True), batch), task)
    if turned != expected:
        return False
    logits = _called(model, replace(plan, length_first=False), batch)
    if logits is None or tuple(logits.shape) != expected:
        return True
    return task.is_per_position and not task.is_seq2seq and sizes.seq > 1 and _mixes_rows_only(model, plan, task, batch, logits)


def reading_length_first(adapter: Adapter, model: nn.Module) -> bool:
    """Whether an adapter passes ``[batch, length]`` to a model that reads ``[length, batch]``."""
    try:
        plan = adapter.plan(model)
    except (AttributeError, UserError):  # an adapter that calls the model in another way
        return False
    # An adapter with a call of its own may arrange the axes as it likes.
    usual = type(adapter).logits is Adapter.logits
    return usual and not plan.length_first and reads_length_first(model, plan, adapter.task)


def _mixes_rows_only(model: nn.Module, plan: CallPlan, task: TaskSpec, batch: Batch, logits: Tensor) -> bool:
    """Whether a change of tokens reaches other entries of the first axis, and none of the second."""
    ids, others = batch["input_ids"], other_tokens(task, batch["input_ids"])
    middle = ids.shape[1] // 2
    along_second, along_first = ids.clone(), ids.clone()
    along_second[:, middle] = others[:, middle]
    along_first[0] = others[0]
    moved = []
    for changed in (along_second, along_first):
        other = _called(model, plan, {**batch, "input_ids": changed})
        if other is None or other.shape != logits.shape:
            return False
        moved.append((other - logits).abs().amax(-1) > _RESOLUTION * float(logits.abs().max()))
    elsewhere = [position for position in range(ids.shape[1]) if position != middle]
    return not bool(moved[0][:, elsewhere].any()) and bool(moved[1][1:].any())


@torch.no_grad()
def _called(model: nn.Module, plan: CallPlan, batch: Batch) -> Tensor | None:
    """The logits of a copy of the model as it returns them; ``None`` where it raises."""
    try:
        with seeded(0):
            return find_logits(plan.call(Copies(model).fresh().eval(), batch)).double()
    except Exception:  # what a model makes of a call that is not meant for it
        return None


def _shape(logits: Tensor | None, task: TaskSpec) -> tuple[int, ...]:
    """The shape of what a call with ``[length, batch]`` returned, with the batch first."""
    if logits is None:
        return ()
    shape = tuple(logits.shape)
    return (shape[1], shape[0], *shape[2:]) if task.is_per_position and logits.ndim >= 2 else shape
