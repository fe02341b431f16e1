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
from harness.properties.calling import mode
from harness.tasks import TaskSpec
from harness.tasks.signature import Output, Signature
from harness.tasks.teaching import guessing
from harness.training.checks.labels import labelled, labels_in
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

    Where other outputs have a share in the loss, the cross-entropy of each output with classes is judged instead.
    """
    subject, signature = trial.subject, trial.subject.task.signature
    if not subject.fresh_weights:
        return Evidence.skipped(_NAME, "the weights are loaded, not freshly initialised")
    sizes = replace(subject.typical, batch=_ROWS) if signature.has_rows else subject.typical
    batch = subject.batch(sizes)
    if len(signature.taught) > 1:
        found = [_judge_output(trial, output, batch, sizes) for output in guessing(signature)]
        return max(found, key=lambda evidence: evidence.status.severity)
    output = guessing(signature)[0]
    trained = observe(trial, [batch], train=True)
    if trained.loss is None:
        return Evidence.skipped(_NAME, f"{loss_name(trial)} does not call backward through Lightning, so its loss is not seen")
    still = observe(trial, [batch])
    loss, formula = float(trained.loss) / output.weight, find_loss_formula(signature, output, still, batch)
    if still.repeats > 1 and formula != MEAN:
        # A step over several batches may as well take their sum as their mean: then it is the loss of one of them that tells.
        loss, formula = loss / still.repeats, find_loss_formula(signature, output, still.of_one_batch(), batch)
    return _judge(trial, output, loss, formula, still, batch, sizes)


def _judge_output(trial: Trial, output: Output, batch: Batch, sizes: Sizes) -> Evidence:
    """The verdict on one of several outputs, by its cross-entropy."""
    subject, classes = trial.subject, output.class_count or 1
    model = subject.fresh()
    with mode(model, train=True):
        value = subject.outputs(batch, model)[output.name]
    loss, uniform = float(subject.task.signature.loss_of(output, value, batch)), math.log(classes)
    message = f"the first cross-entropy of output `{output.name}` is {loss:.3g}; a uniform guess over {classes} classes has {uniform:.2f}"
    sound = _sound(subject.task, loss, uniform, message, sizes, "cross-entropy by output")
    if are_probabilities(_classes_last(output, value)):
        return _returns_probabilities(
            sound, f"output `{output.name}` holds", classes, "return the logits, or declare `kind: probabilities`"
        )
    return _too_large(sound, MEAN) or sound


def _judge(
    trial: Trial, output: Output, loss: float, formula: LossFormula | None, still: Observation, batch: Batch, sizes: Sizes
) -> Evidence:
    task, classes = trial.subject.task, output.class_count or 1
    logits = still.values.get(output.name)
    uniform = math.log(classes) * (_BITS.scale if formula is _BITS else 1.0)
    what = f"the first loss of {loss_name(trial)} is {loss:.3g}".replace("loss of the loss", "loss")
    guess = f"a uniform guess over {classes} classes has loss {uniform:.2f}{' bits' if formula is _BITS else ''}"
    sound = _sound(task, loss, uniform, f"{what}; {guess}", sizes, formula.name if formula else "of another kind")
    if logits is not None and are_probabilities(_classes_last(output, logits)):
        return _returns_probabilities(sound, "the model returns", classes, "return the logits")
    if formula is not None and formula.is_flaw:
        # The sum of which ``reduction`` says more, where there are rows.
        owner = owned_by("training_loss[reduction]") if formula.scale != 1.0 and task.signature.has_rows_in_loss else {}
        message = f"{what}: it is {formula.name}" + (f", so {_floor(classes)}" if "softmax(" in formula.name else f"; {guess}")
        details = sound.details | owner
        return replace(sound, status=Status.FAIL, message=message, cause=formula.cause, code=formula.code, details=details)
    if too_large := _too_large(sound, formula):
        return too_large
    if formula is not None and abs(math.log(formula.scale)) > _FAR and not _scales_itself(trial):
        message = f"{what}: it is {formula.name}"
        return replace(sound, status=Status.WARN, message=message, cause=formula.cause, code=formula.code)
    if formula is None and logits is None and loss < uniform / 2 and still.repeats == 1:
        return replace(
            sound,
            status=Status.WARN,
            code="too_small",
            message=f"{what}, less than an untrained model can have: {guess}",
            cause="a loss that is scaled down, or divided by the number of positions that have no label",
        )
    return sound


def _sound(task: TaskSpec, loss: float, uniform: float, message: str, sizes: Sizes, formula: str) -> Evidence:
    """What is said of a first loss that is as it should be, and of any other where it differs from that."""
    allowed = task.tolerances.get(_NAME, uniform + 1.0)
    sound = Evidence.ok(
        _NAME,
        message,
        (loss - uniform, allowed, "nats above log C"),
        counterexample=f"{sizes.describe(task)}, train mode, seed=0",
        details={"loss": loss, "uniform": uniform, "formula": formula},
    )
    return replace(sound, compared=f"loss {loss:.3g}, uniform guess {uniform:.3g} (allowed up to {uniform + allowed:.3g})")


def _severity(found: Evidence) -> Status | None:
    """How bad it is that a loss is above that of a uniform guess; ``None`` where it is not by much."""
    excess, allowed = found.measured, found.bound
    assert excess is not None
    assert allowed is not None
    if not excess <= allowed:
        return Status.FAIL
    return Status.WARN if excess > min(1.0, allowed) else None


def _scales_itself(trial: Trial) -> bool:
    """Whether the training step has to divide by the batches a step, as one with manual optimisation has."""
    return trial.is_own and not getattr(trial.subject.model, "automatic_optimization", True)


def _returns_probabilities(sound: Evidence, which: str, classes: int, instead: str) -> Evidence:
    message = f"{which} probabilities instead of logits: {_floor(classes)}"
    cause = f"a softmax at the end of the model, where the loss applies one too: {instead}"
    least = f"least possible loss {_least(classes):.2f}, that of logits is 0"
    return replace(sound, status=Status.FAIL, message=message, cause=cause, code="returns_probabilities", compared=least)


def _too_large(sound: Evidence, formula: LossFormula | None) -> Evidence | None:
    """The finding on a loss that is above that of a uniform guess; ``None`` where it is not by much."""
    severity, message = _severity(sound), sound.message
    if severity is None:
        return None
    if formula is None:
        cause = f"an auxiliary term of that size, a sum instead of a mean, or {_LOUD}"
    elif formula == MEAN:
        message, cause = f"{message}: the untrained model is confident of wrong answers", _LOUD
    else:
        message, cause = f"{message}: it is {formula.name}", formula.cause
    return replace(sound, status=severity, message=message, cause=cause, code="too_large")


def _floor(classes: int) -> str:
    return f"the loss can never fall below {_least(classes):.2f}"


def _least(classes: int) -> float:
    """The least loss where softmax is taken twice: the right class has e to 1 against each of the others."""
    return math.log(1 + (classes - 1) / math.e)


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

_BITS = LossFormula("the mean cross-entropy in bits", scale=1 / math.log(2))

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


def find_loss_formula(signature: Signature, output: Output, seen: Observation, batch: Batch) -> LossFormula | None:
    """The formula that a step's loss follows; ``None`` where it is another one than those known here, such as with smoothed labels.

    Args:
        signature: The task's.
        output: The only output with classes that has a share in the loss.
        seen: The step.
        batch: What it learned from.
    """
    logits, slopes = seen.values.get(output.name), seen.slopes.get(output.name)
    if seen.loss is None or logits is None or slopes is None or not bool(slopes.any()):
        return None
    loss_seen, slopes = seen.loss / output.weight, slopes / output.weight
    for formula, compute in _FLAWS:
        loss, slope = _value_and_slope(signature, output, logits, batch, compute)
        if _is_same(slopes, slope) and _is_same(loss_seen, loss):
            return MEAN if formula is _NO_SOFTMAX and _are_log_probabilities(_classes_last(output, logits)) else formula
    loss, slope = _value_and_slope(signature, output, logits, batch, F.cross_entropy)
    scale = float((slopes * slope).sum() / slope.square().sum())
    if scale <= 0 or not _is_same(slopes, scale * slope):
        return None
    known = next((formula for formula in (MEAN, _BITS) if abs(scale / formula.scale - 1) <= _MATCH), None)
    return known or _scaled(signature, output, scale, batch)


def are_probabilities(logits: Tensor) -> bool:
    """Whether what should be logits are the outputs of a softmax: never negative, and each row sums to 1."""
    rows = logits.double().flatten(0, -2)
    return rows.shape[-1] > 1 and bool((rows >= 0).all()) and bool(((rows.sum(-1) - 1).abs() < _MATCH).all())


def _are_log_probabilities(logits: Tensor) -> bool:
    """Whether what should be logits come out of a log_softmax, of which nll_loss makes the cross-entropy."""
    return bool((logits.double().logsumexp(-1).abs() < _MATCH).all())


def _classes_last(output: Output, logits: Tensor) -> Tensor:
    return logits if output.classes is None else logits.movedim(output.classes, -1)


def _scaled(signature: Signature, output: Output, scale: float, batch: Batch) -> LossFormula:
    labels = int(signature.label_count(output, batch))
    if abs(scale / labels - 1) <= _MATCH:
        return LossFormula(
            'the sum over the labels (reduction="sum")', True, 'reduction="sum" instead of "mean"', scale, "summed"
        )
    if abs(scale * signature.row_count(batch) / labels - 1) <= _MATCH:
        return LossFormula(
            "the sum over each row's labels", False, "a sum over the positions instead of a mean", scale, "summed_over_positions"
        )
    cause = "a division by `accumulate_grad_batches`, which Lightning does itself" if scale < 1 else "a loss weight, or a sum"
    return LossFormula(f"{scale:.3g} times the mean cross-entropy", False, cause, scale, "scaled")


def _value_and_slope(
    signature: Signature, output: Output, logits: Tensor, batch: Batch, compute: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaf = logits.detach().clone().requires_grad_()
        loss = compute(*labelled(signature, output, leaf, labels_in(signature, output, batch)))
        (slope,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), slope


def _is_same(left: Tensor, right: Tensor) -> bool:
    return float((left - right).norm()) <= _MATCH * max(float(left.norm()), float(right.norm()))
