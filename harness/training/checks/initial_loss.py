"""The first loss of a training, as the model's own training step computes it, and the formula that it follows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.batches import Batch, Sizes
from harness.evidence import Evidence, Status
from harness.owners import owned_by
from harness.tasks import TaskSpec
from harness.training.checks.labels import labelled
from harness.training.checks.observation import Observation, loss_name, observe
from harness.training.trial import Trial

_NAME = "initial_loss"
_ROWS = 8
_FAR = 0.5
"""How far, in powers of e, a factor is from 1 that is worth a word."""

_LOUD = (
    "an embedding or head initialised with too large a scale (nn.Embedding's default of 1, tied to the head), a missing final norm, or inputs "
    "that are not normalised"
)

_MATCH = 1e-3
"""Relative difference up to which two losses are the same formula; different ones differ in the first digit."""


def initial_loss(trial: Trial) -> Evidence:
    """The first loss of a training lies near log C, that of a uniform guess.

    Unlike tier 1's ``initialisation``, which knows only the model, it goes through the training step that the user wrote. Where the logits
    can be seen, the loss and the gradient that it sends back to them are compared with the formulas that are commonly written by mistake, so
    that the verdict rests on what the step computes rather than on how large the number came out. A loss of another kind, such as with
    smoothed labels or an auxiliary term, is judged by its size: a warning from 1 nat above log C, a failure from log C + 1 above.
    """
    subject = trial.subject
    if not subject.fresh_weights:
        return Evidence(_NAME, Status.SKIPPED, "the weights are loaded, not freshly initialised")
    typical = subject.typical
    sizes = replace(typical, batch=_ROWS)
    batch = subject.batch(sizes)
    trained = observe(trial, [batch], train=True)
    if trained.loss is None:
        return Evidence(
            _NAME, Status.SKIPPED, f"{loss_name(trial)} does not call backward through Lightning, so its loss is not seen"
        )
    still = observe(trial, [batch])
    loss, formula = float(trained.loss), find_loss_formula(subject.task, still, batch)
    if still.repeats > 1 and formula != MEAN:
        # A step over several batches may as well take their sum as their mean: then it is the loss of one of them that tells.
        loss, formula = loss / still.repeats, find_loss_formula(subject.task, still.of_one_batch(), batch)
    return _judge(trial, loss, formula, still, batch, sizes)


def _judge(trial: Trial, loss: float, formula: LossFormula | None, still: Observation, batch: Batch, sizes: Sizes) -> Evidence:
    task = trial.subject.task
    uniform = math.log(task.output_size or 1)
    what = f"the first loss of {loss_name(trial)} is {loss:.3g}"
    guess = f"a uniform guess over {task.output_size} classes has loss {uniform:.2f}"
    allowed = task.tolerances.get(_NAME, uniform + 1.0)
    excess = loss - uniform
    status, message, cause, code = Status.OK, f"{what}; {guess}", "", ""
    owner: dict[str, str] = {}
    if still.logits is not None and are_probabilities(still.logits):
        status, code = Status.FAIL, "returns_probabilities"
        message = f"the model returns probabilities instead of logits: {_floor(trial)}"
        cause = "a softmax at the end of the model, where the loss applies one too: return the logits"
    elif formula is not None and formula.is_flaw:
        status, cause, code = Status.FAIL, formula.cause, formula.code
        owner = owned_by("training_loss[reduction]") if formula.scale != 1.0 else {}  # the sum of which ``reduction`` says more
        message = f"{what}: it is {formula.name}" + (f", so {_floor(trial)}" if "softmax(" in formula.name else f"; {guess}")
    elif not excess <= allowed:
        status, (message, cause), code = Status.FAIL, _too_large(f"{what}; {guess}", formula), "too_large"
    elif excess > min(1.0, allowed):
        status, (message, cause), code = Status.WARN, _too_large(f"{what}; {guess}", formula), "too_large"
    elif formula is not None and abs(math.log(formula.scale)) > _FAR and not _scales_itself(trial):
        status, message, cause, code = Status.WARN, f"{what}: it is {formula.name}", formula.cause, formula.code
    elif formula is None and still.logits is None and loss < uniform / 2 and still.repeats == 1:
        status, code = Status.WARN, "too_small"
        message = f"{what}, less than an untrained model can have: {guess}"
        cause = "a loss that is scaled down, or divided by the number of positions that have no label"
    return Evidence(
        _NAME,
        status,
        message,
        excess,
        allowed,
        "nats above log C",
        f"{sizes.describe(task)}, train mode, seed=0",
        cause=cause,
        details={"loss": loss, "uniform": uniform, "formula": formula.name if formula else "of another kind", **owner},
        code=code,
        compared=f"loss {loss:.3g}, uniform guess {uniform:.3g} (allowed up to {uniform + allowed:.3g})",
    )


def _scales_itself(trial: Trial) -> bool:
    """Whether the training step has to divide by the batches a step, as one with manual optimisation has."""
    return trial.is_own and not getattr(trial.subject.model, "automatic_optimization", True)


def _too_large(message: str, formula: LossFormula | None) -> tuple[str, str]:
    if formula is None:
        return message, f"an auxiliary term of that size, a sum instead of a mean, or {_LOUD}"
    if formula == MEAN:
        return f"{message}: the untrained model is confident of wrong answers", _LOUD
    return f"{message}: it is {formula.name}", formula.cause


def _floor(trial: Trial) -> str:
    """What the loss cannot go below where softmax is taken twice: the right class has e to 1 against each of the others."""
    classes = trial.subject.task.output_size or 1
    return f"the loss can never fall below {math.log(1 + (classes - 1) / math.e):.2f}"


@dataclass(frozen=True)
class LossFormula:
    """A formula that a loss follows.

    Attributes:
        name: What it is, as a phrase.
        is_flaw: Whether nobody means it.
        cause: What makes it come about.
        scale: For the mean cross-entropy times a factor, that factor; 1 for all others.
        code: Of the finding.
    """

    name: str
    is_flaw: bool = False
    cause: str = ""
    scale: float = 1.0
    code: str = ""


MEAN = LossFormula("the mean cross-entropy")

_TWICE = LossFormula(
    "the cross-entropy of softmax(logits)",
    True,
    "a softmax before cross_entropy, which applies one too: pass it the logits",
    code="softmax_twice",
)
_NO_LOG = LossFormula(
    "minus the probability of the label",
    True,
    "nll_loss on a softmax, where it takes a log_softmax: use cross_entropy",
    code="nll_of_softmax",
)
_NO_SOFTMAX = LossFormula(
    "minus the logit of the label",
    True,
    "nll_loss on logits, where it takes a log_softmax: use cross_entropy",
    code="nll_of_logits",
)

_FLAWS: tuple[tuple[LossFormula, Callable[[Tensor, Tensor], Tensor]], ...] = (
    (_TWICE, lambda logits, labels: F.cross_entropy(logits.softmax(-1), labels)),
    (_NO_LOG, lambda logits, labels: F.nll_loss(logits.softmax(-1), labels)),
    (_NO_SOFTMAX, lambda logits, labels: F.nll_loss(logits, labels)),
)


def find_loss_formula(task: TaskSpec, seen: Observation, batch: Batch) -> LossFormula | None:
    """The formula that a step's loss follows; ``None`` where it is another one than those known here, such as with smoothed labels.

    Args:
        task: A task with classes.
        seen: The step.
        batch: What it learned from.
    """
    if seen.loss is None or seen.logits is None or seen.slope is None or not bool(seen.slope.any()):
        return None
    for formula, compute in _FLAWS:
        loss, slope = _value_and_slope(task, seen.logits, batch, compute)
        if _is_same(seen.slope, slope) and _is_same(seen.loss, loss):
            return formula
    loss, slope = _value_and_slope(task, seen.logits, batch, F.cross_entropy)
    scale = float((seen.slope * slope).sum() / slope.square().sum())
    if scale <= 0 or not _is_same(seen.slope, scale * slope):
        return None
    return MEAN if abs(scale - 1) <= _MATCH else _scaled(task, scale, batch)


def are_probabilities(logits: Tensor) -> bool:
    """Whether what should be logits are the outputs of a softmax: never negative, and each row sums to 1."""
    rows = logits.double().flatten(0, -2)
    return rows.shape[-1] > 1 and bool((rows >= 0).all()) and bool(((rows.sum(-1) - 1).abs() < _MATCH).all())


def _scaled(task: TaskSpec, scale: float, batch: Batch) -> LossFormula:
    _, labels = labelled(task, batch["labels"][..., None], batch["labels"])
    if abs(scale / len(labels) - 1) <= _MATCH:
        return LossFormula(
            'the sum over the labels (reduction="sum")', True, 'reduction="sum" instead of "mean"', scale, "summed"
        )
    if abs(scale * len(batch["labels"]) / len(labels) - 1) <= _MATCH:
        return LossFormula(
            "the sum over each row's labels", False, "a sum over the positions instead of a mean", scale, "summed_over_positions"
        )
    cause = "a division by `accumulate_grad_batches`, which Lightning does itself" if scale < 1 else "a loss weight, or a sum"
    return LossFormula(f"{scale:.3g} times the mean cross-entropy", False, cause, scale, "scaled")


def _value_and_slope(
    task: TaskSpec, logits: Tensor, batch: Batch, compute: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaf = logits.detach().clone().requires_grad_()
        loss = compute(*labelled(task, leaf, batch["labels"]))
        (slope,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), slope


def _is_same(left: Tensor, right: Tensor) -> bool:
    return float((left - right).norm()) <= _MATCH * max(float(left.norm()), float(right.norm()))
