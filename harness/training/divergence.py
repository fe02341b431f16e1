"""Why a loss or a gradient became NaN: the step, and the module where it began."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.adapters import Adapter
from harness.batches import Batch
from harness.models.weights import not_finite
from harness.properties.calling import mode
from harness.properties.gradient_tracing import first_bad_gradient
from harness.properties.tracing import finite, first_broken, recording
from harness.training.errors import DivergedError

_ADVICE = "try a lower `learning_rate`, a larger `warmup_ratio`, or a `max_grad_norm`"


def diverged(what: str, step: int, epoch: int, culprit: str, kept: Path | None, spared: bool) -> DivergedError:
    """The error that stops a training.

    Args:
        what: ``loss`` or ``gradient``.
        step: The optimizer step.
        epoch: Counted from 0.
        culprit: Where it began, as a phrase; may be empty.
        kept: The last good checkpoint.
        spared: Whether the step was not taken.
    """
    good = f"the last good checkpoint is {kept}" if kept is not None and kept.is_file() else "no checkpoint was written yet"
    where = f", {culprit}" if culprit else ""
    how = "training stopped before the weights were updated" if spared else "training stopped"
    return DivergedError(f"the {what} became NaN or infinite at step {step} (epoch {epoch}){where}; {how}: {good}; {_ADVICE}")


def find_culprit(model: nn.Module, adapter: Adapter, batch: Batch, forward: AbstractContextManager[Any]) -> str:
    """Runs the batch once more, under the random state of the caller, and says where the first NaN or infinity appears.

    Returns:
        A phrase such as ``first seen in `blocks.1.attn```; empty where the batch is sound now.
    """
    poisoned = not_finite(dict(model.state_dict()))
    if poisoned:
        return f"because `{poisoned[0]}` holds NaN or infinity"
    bad_fields = [name for name, field in batch.items() if field.is_floating_point() and not bool(field.isfinite().all())]
    if bad_fields:
        return f"because `{bad_fields[0]}` of the batch holds NaN or infinity"
    with mode(model, True), forward:
        with torch.no_grad(), recording(model) as calls:
            loss = adapter.loss_of_call(model, batch)
        module = first_broken(calls, lambda tensor: not finite(tensor))
        if module:
            return f"first seen in `{module}`"
        if not bool(adapter.weight(batch)):
            return "because the batch has no label but -100"
        if not bool(loss.isfinite()):
            return "in the loss itself: every module's output is finite"

        def backward() -> None:
            torch.autograd.grad(
                adapter.loss_of_call(model, batch),
                [p for p in model.parameters() if p.requires_grad],
                allow_unused=True,
            )

        module = first_bad_gradient(model, backward)
    return f"first seen in the gradient of `{module}`" if module else ""
