"""What a training step computes from its logits, read off its loss and the gradient that it sends back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.batches import Batch
from harness.tasks import TaskSpec
from harness.training.checks.labels import labelled
from harness.training.checks.observation import Observation

_MATCH = 1e-3
"""Relative difference up to which two losses are the same formula; different ones differ in the first digit."""


@dataclass(frozen=True)
class Reading:
    """A formula that a loss follows.

    Attributes:
        name: What it is, as a phrase.
        is_flaw: Whether nobody means it.
        cause: What makes it come about.
        scale: For the mean cross-entropy times a factor, that factor; 1 for all others.
    """

    name: str
    is_flaw: bool = False
    cause: str = ""
    scale: float = 1.0


MEAN = Reading("the mean cross-entropy")

_TWICE = Reading(
    "the cross-entropy of softmax(logits)",
    True,
    "a softmax before cross_entropy, which has one of its own: pass it the logits as they are",
)
_NO_LOG = Reading(
    "minus the probability of the label", True, "nll_loss on a softmax, where it takes a log_softmax: use cross_entropy"
)
_NO_SOFTMAX = Reading("minus the logit of the label", True, "nll_loss on logits, where it takes a log_softmax: use cross_entropy")

_FLAWS: tuple[tuple[Reading, Callable[[Tensor, Tensor], Tensor]], ...] = (
    (_TWICE, lambda logits, labels: F.cross_entropy(logits.softmax(-1), labels)),
    (_NO_LOG, lambda logits, labels: F.nll_loss(logits.softmax(-1), labels)),
    (_NO_SOFTMAX, lambda logits, labels: F.nll_loss(logits, labels)),
)


def read_loss(task: TaskSpec, seen: Observation, batch: Batch) -> Reading | None:
    """The formula that a step's loss follows; ``None`` where it is another one than those known here, such as with smoothed labels.

    Args:
        task: A task with classes.
        seen: The step.
        batch: What it learned from.
    """
    if seen.loss is None or seen.logits is None or seen.slope is None or not bool(seen.slope.any()):
        return None
    for reading, formula in _FLAWS:
        loss, slope = _value_and_slope(task, seen.logits, batch, formula)
        if _is_same(seen.slope, slope) and _is_same(seen.loss, loss):
            return reading
    loss, slope = _value_and_slope(task, seen.logits, batch, F.cross_entropy)
    scale = float((seen.slope * slope).sum() / slope.square().sum())
    if scale <= 0 or not _is_same(seen.slope, scale * slope):
        return None
    return MEAN if abs(scale - 1) <= _MATCH else _scaled(task, scale, batch)


def are_probabilities(logits: Tensor) -> bool:
    """Whether what should be logits are the outputs of a softmax: never negative, and each row sums to 1."""
    rows = logits.double().flatten(0, -2)
    return rows.shape[-1] > 1 and bool((rows >= 0).all()) and bool(((rows.sum(-1) - 1).abs() < _MATCH).all())


def _scaled(task: TaskSpec, scale: float, batch: Batch) -> Reading:
    _, labels = labelled(task, batch["labels"][..., None], batch["labels"])
    if abs(scale / len(labels) - 1) <= _MATCH:
        return Reading('the sum over the labels (reduction="sum")', True, 'reduction="sum" where the mean is meant', scale)
    if abs(scale * len(batch["labels"]) / len(labels) - 1) <= _MATCH:
        return Reading("the sum over each row's labels", False, "a sum over the positions where the mean is meant", scale)
    cause = "a division by `accumulate_grad_batches`, which Lightning does itself" if scale < 1 else "a loss weight, or a sum"
    return Reading(f"{scale:.3g} times the mean cross-entropy", False, cause, scale)


def _value_and_slope(
    task: TaskSpec, logits: Tensor, batch: Batch, formula: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaf = logits.detach().clone().requires_grad_()
        loss = formula(*labelled(task, leaf, batch["labels"]))
        (slope,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), slope


def _is_same(left: Tensor, right: Tensor) -> bool:
    return float((left - right).norm()) <= _MATCH * max(float(left.norm()), float(right.norm()))
