"""Whether each output has the share in the loss that its declared weight says, read off the gradients that the loss sends back."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.batches import Batch
from harness.evidence import Evidence, Status
from harness.tasks.signature import Output, Signature
from harness.tasks.teaching import targeted
from harness.training.checks.observation import loss_name, observe
from harness.training.trial import Trial
from harness.wording import joined

_NAME = "training_loss"
_SAME = 1e-2
"""Relative difference up to which two shares are the same: far above rounding, far below a weight that someone would choose."""


def weights(trial: Trial) -> Evidence:
    """The loss of each output counts as often, beside that of the others, as its weight declares.

    What the step sends back to an output is compared with the gradient of its own loss by name: where the one is a multiple of the other,
    the factor is the output's share. Only the ratios of the shares are judged, so that the whole may be scaled.
    """
    signature = trial.subject.task.signature
    batch = trial.subject.batch()
    seen = observe(trial, [batch])
    at = trial.subject.typical.describe(trial.subject.task)
    shares: dict[str, float] = {}
    for output in targeted(signature):
        value, slope = (each.get(output.name) for each in (seen.values, seen.slopes))
        share = None if value is None or slope is None else share_of(signature, output, value, slope, batch)
        if share is not None:
            shares[output.name] = share
    declared = {output.name: output.weight for output in signature.outputs if output.name in shares}
    if len(shares) < 2:
        message = f"{loss_name(trial)} trains outputs by other losses than those declared, so their shares cannot be compared"
        return Evidence(_NAME, Status.SKIPPED, message, counterexample=at)
    first = next(iter(shares))
    apart = {name: abs(shares[name] / shares[first] / (declared[name] / declared[first]) - 1) for name in shares}
    worst = max(apart, key=lambda name: apart[name])
    facts = {"shares": shares, "declared": declared}
    if apart[worst] <= _SAME:
        message = f"the outputs have their declared shares in the loss: {_said(declared)}"
        return Evidence(_NAME, Status.OK, message, apart[worst], _SAME, "between the shares", at, details=facts)
    scale = declared[first] / shares[first]
    return Evidence(
        _NAME,
        Status.FAIL,
        f"{loss_name(trial)} weighs its outputs as {_said({name: share * scale for name, share in shares.items()})}, declared are "
        f"{_said(declared)}",
        apart[worst],
        _SAME,
        "between the shares",
        at,
        cause="the weight of one output applied to another, a sum where the other losses are means, or a `weight` that was changed in one place",
        details=facts,
        code="other_weights",
    )


def share_of(signature: Signature, output: Output, value: Tensor, slope: Tensor, batch: Batch) -> float | None:
    """The factor of an output's own loss in that of a step; ``None`` where the step trains it by another loss.

    Args:
        signature: The signature.
        output: The output.
        value: Its value at the step.
        slope: What the step sent back to it.
        batch: The batch of the step.
    """
    with torch.enable_grad():
        leaf = value.detach().clone().requires_grad_()
        (own,) = torch.autograd.grad(signature.loss_of(output, leaf, batch), leaf)
    share = float((slope * own).sum() / own.square().sum())
    is_multiple = share > 0 and float((slope - share * own).norm()) <= _SAME * float(slope.norm())
    return share if is_multiple else None


def _said(shares: dict[str, float]) -> str:
    return joined([f"`{name}` {share:.3g}" for name, share in shares.items()])
