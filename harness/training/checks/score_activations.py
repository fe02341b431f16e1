"""Whether a loss takes scores as they are, or through an activation that keeps some labels from ever being preferred."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.batches import Batch
from harness.evidence import Evidence, Status
from harness.owners import owned_by
from harness.tasks.signature import Output, Signature
from harness.tasks.teaching import guessing
from harness.training.checks.observation import loss_name, observe
from harness.training.trial import Trial

_NAME = "training_loss"
_ROWS = 8
_MATCH = 1e-3
"""Relative difference up to which two gradients are the same but for a factor."""


@dataclass(frozen=True)
class _Activation:
    """What is applied to scores before a loss.

    Attributes:
        name: Its name.
        apply: The function; classes are on the axis that it is given.
        harm: What follows.
        losses: The losses that it is a mistake before.
    """

    name: str
    apply: Callable[[Tensor, int], Tensor]
    harm: str
    losses: tuple[str, ...] = ("cross_entropy", "bce")


_ACTIVATIONS = (
    _Activation("softmax", lambda x, axis: x.softmax(axis), "the loss can never come near 0", ("cross_entropy",)),
    _Activation("sigmoid", lambda x, _axis: x.sigmoid(), "no score is below 0 or above 1, so no answer is ever sure"),
    _Activation("tanh", lambda x, _axis: x.tanh(), "no score is below -1 or above 1, so no answer is ever sure"),
    _Activation("ReLU", lambda x, _axis: x.relu(), "no score is below 0, and a class whose score is there gets no gradient"),
)


def scores(trial: Trial) -> Evidence:
    """The loss takes the scores of an output as they are: not through a softmax, a sigmoid, a tanh or a ReLU.

    What the step sends back to an output is compared with the gradient of its loss by name, of the scores and of each activation of them. The
    second softmax of an only output is a finding of ``initial_loss``, which tells it by the loss.
    """
    signature = trial.subject.task.signature
    sizes = replace(trial.subject.typical, batch=_ROWS) if signature.has_rows else trial.subject.typical
    batch = trial.subject.batch(sizes)
    seen = observe(trial, [batch])
    known = 0
    for output in (each for each in signature.taught if each.loss in ("cross_entropy", "bce")):
        value, slope = seen.values.get(output.name), seen.slopes.get(output.name)
        if value is None or slope is None or not bool(slope.any()):
            continue
        known += 1
        if _matches(signature, output, value, slope, batch, None):
            continue
        for activation in _ACTIVATIONS:
            if output.loss in activation.losses and _matches(signature, output, value, slope, batch, activation):
                return _finding(trial, output, activation, sizes.describe(trial.subject.task))
    if not known:
        return Evidence(_NAME, Status.SKIPPED, "the training step's scores cannot be told apart from other tensors")
    return Evidence(_NAME, Status.OK, f"{loss_name(trial)} takes scores through no softmax, sigmoid, tanh or ReLU")


def _finding(trial: Trial, output: Output, activation: _Activation, at: str) -> Evidence:
    signature = trial.subject.task.signature
    is_told = activation.name == "softmax" and len(signature.taught) == 1 and output in guessing(signature)
    owner = owned_by("initial_loss") if is_told and trial.subject.fresh_weights else {}
    return Evidence(
        _NAME,
        Status.FAIL,
        f"{loss_name(trial)} takes the scores of output `{output.name}` through a {activation.name}, which its loss does not expect: "
        f"{activation.harm}",
        counterexample=at,
        cause="a loss with logits (cross_entropy, binary_cross_entropy_with_logits) that is given an activation of them: give it the scores",
        details=owner,
        code="activation_before_loss",
    )


def _matches(
    signature: Signature, output: Output, value: Tensor, slope: Tensor, batch: Batch, activation: _Activation | None
) -> bool:
    """Whether what was sent back is, but for a factor, the gradient of the loss by name, of an activation of the scores."""
    with torch.enable_grad():
        leaf = value.detach().clone().requires_grad_()
        taken = leaf if activation is None else activation.apply(leaf, -1 if output.classes is None else output.classes)
        (own,) = torch.autograd.grad(signature.loss_of(output, taken, batch), leaf)
    size = float(own.square().sum())
    factor = float((slope * own).sum()) / size if size else 0.0
    return factor > 0 and float((slope - factor * own).norm()) <= _MATCH * float(slope.norm())
