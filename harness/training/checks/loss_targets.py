"""What each position is trained towards, and through which activation of its scores, read off the gradient that the loss sends back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from harness.batches import IGNORED, Batch, Sizes
from harness.evidence import Evidence, Status
from harness.owners import owned_by
from harness.properties.gradient_tracing import graph_of
from harness.properties.score_range import last_operator
from harness.runtime import seeded
from harness.tasks.axes import BATCH
from harness.tasks.signature import Output, Signature
from harness.tasks.teaching import guessing, targeted
from harness.tasks.values import Ids
from harness.training.checks.initial_loss import initial_loss
from harness.training.checks.labels import aligned, labels_in
from harness.training.checks.observation import Observation, loss_name, observe
from harness.training.checks.overfit_attempt import OF_NUMBERS
from harness.training.trial import Trial, Variation
from harness.wording import and_others, counted

_NAME = "training_loss"
_ROWS = 16
_SEEDS = 3
_PULL = 0.1
"""Share of a position's largest gradient that the label's own must have to count as one of several targets, as mixed labels have."""

_SETTLED = 1e-4

_APART = 0.45
"""How far labels of a regression are from the predictions: less than a half, so that rounding a label turns the sign."""

_TOUCHING = 1e-5
"""How near a prediction is to its label where the side that it is on is a matter of rounding."""


def targets(trial: Trial) -> Evidence:
    """Each position is trained towards its own label.

    Training pushes a class up where the gradient of its logit is negative. Of a cross-entropy the class of the label has the most negative
    one, of a squared error the sign is that of prediction minus label; so the labels that a step really uses can be read off, whatever it
    does to them on the way. Each output that has labels is judged.
    """
    if not targeted(trial.subject.task.signature):
        return Evidence.skipped(_NAME, "no output has labels that it is trained towards")
    batch, sizes = _telling_batch(trial)
    first = _judge_under(trial, batch, sizes, 0)
    if first.status is not Status.FAIL:
        return first
    # A step that mixes rows and their labels at random trains towards the labels of other rows now and then.
    others = (_judge_under(trial, batch, sizes, seed) for seed in range(1, _SEEDS))
    found = next((other for other in others if other.status is Status.OK), first)
    if found.status is Status.FAIL and observe(trial, [batch]).optimizers > 1:
        message = f"{loss_name(trial)} has several optimizers, and the loss of the first may be adversarial on purpose"
        return Evidence.skipped(_NAME, message, counterexample=found.counterexample)
    if found.status is Status.FAIL and scores(trial).status is Status.FAIL:  # the label's own gradient may be cut off
        return replace(found, details={**found.details, **owned_by("training_loss[scores]")})
    return found


def _judge_under(trial: Trial, batch: Batch, sizes: Sizes, seed: int) -> Evidence:
    """The worst finding of any output."""
    counterexample = f"{sizes.describe(trial.subject.task)}, seed={seed}"
    seen = observe(trial, [batch], vary=Variation(seed=seed))
    outputs = targeted(trial.subject.task.signature)
    found = [_judge_output(_Judged(trial, output, batch, counterexample), seen) for output in outputs]
    return max(found, key=lambda evidence: evidence.status.severity)


def _judge_output(judged: _Judged, seen: Observation) -> Evidence:
    value, slope = (each.get(judged.output.name) for each in (seen.values, seen.slopes))
    if value is None or slope is None:
        what = "the logits" if judged.trial.subject.task.declared is None else f"output `{judged.output.name}`"
        return Evidence.skipped(_NAME, f"{what} of {loss_name(judged.trial)} cannot be told from other tensors")
    labels = labels_in(judged.signature, judged.output, judged.batch)
    found = judged.numbers(value, slope, labels) if labels.is_floating_point() else judged.classes(value, slope, labels)
    if found.status is Status.FAIL and bool(slope.any()) and (reader := judged.read_by):
        message = f"output `{reader}` is computed from output `{judged.output.name}`, so that the losses of both push it"
        return Evidence.skipped(_NAME, message, counterexample=judged.counterexample)
    return found


def _telling_batch(trial: Trial) -> tuple[Batch, Sizes]:
    """A batch on which it shows which label a position is trained towards."""
    subject, signature = trial.subject, trial.subject.task.signature
    typical = subject.typical
    judged = targeted(signature)
    is_per_row = all(len(signature.axes_of(signature.label_name(output))) == 1 for output in judged) and signature.has_rows
    sizes = replace(typical, batch=_ROWS) if is_per_row else typical
    batch = subject.batch(sizes)
    told = [output for output in judged if _is_free(signature, output, batch)]
    values = subject.outputs(batch, subject.fresh()) if told else {}
    for output in told:
        name, prediction = signature.label_name(output), values[output.name]
        sides = torch.tensor([1.0, -1.0], device=prediction.device).repeat(prediction.numel())[: prediction.numel()]
        batch[name] = (prediction + _APART * sides.reshape(prediction.shape)).reshape(batch[name].shape).to(batch[name].dtype)
    return batch, sizes


def _is_free(signature: Signature, output: Output, batch: Batch) -> bool:
    """Whether the labels are numbers that may be anything: neither an input again, nor yes or no."""
    name = signature.label_name(output)
    return batch[name].is_floating_point() and name not in signature.label_sources and output.loss in OF_NUMBERS


@dataclass(frozen=True)
class _Judged:
    """An output of a step that is judged.

    Attributes:
        trial: The model.
        output: The output.
        batch: What the step learned from.
        counterexample: Its sizes.
    """

    trial: Trial
    output: Output
    batch: Batch
    counterexample: str

    @property
    def signature(self) -> Signature:
        """The task's."""
        return self.trial.subject.task.signature

    @property
    def read_by(self) -> str:
        """Another output with labels that is computed from this one, as the picture of an autoencoder is from its code; empty for none."""
        subject = self.trial.subject
        with seeded(0), torch.enable_grad():
            values = subject.outputs_with_grad(self.batch, subject.fresh())
        own = last_operator(values[self.output.name])
        others = (each.name for each in targeted(self.signature) if each is not self.output)
        return next((name for name in others if own in graph_of(values[name])), "") if own is not None else ""

    @property
    def is_one_of_several(self) -> bool:
        """Whether messages must say which output it is."""
        return len(self.signature.taught) > 1

    @property
    def named(self) -> str:
        """The output, as a phrase that follows what it has."""
        return f" of output `{self.output.name}`" if self.is_one_of_several else ""

    def numbers(self, predictions: Tensor, slope: Tensor, labels: Tensor) -> Evidence:
        """Numbers, and scores of a yes or a no, go towards their labels."""
        if self.output.loss == "bce":
            predictions = predictions.sigmoid()
        predictions, slope = predictions.reshape(labels.shape), slope.reshape(labels.shape)
        if self.trial.subject.task.declared is not None and not bool(slope.any()):
            return self._without_gradient(labels.numel())
        apart = (predictions - labels).abs() > _TOUCHING * labels.abs().clamp(min=1)
        wrong = (((predictions - labels).sign() != slope.sign()) & apart & (labels != IGNORED)).nonzero().tolist()
        if not wrong:
            message = f"all {labels.numel()} predictions{self.named} are trained towards their labels"
            return Evidence.ok(_NAME, message, (0, 0, "rows"), counterexample=self.counterexample)
        place = tuple(wrong[0])
        way = {1.0: "down", -1.0: "up"}.get(float(slope[place].sign()), "nowhere")
        what = "row" if labels.ndim == 1 else "element"
        return Evidence.failed(
            _NAME,
            f"{loss_name(self.trial)} pushes the prediction {float(predictions[place]):.3g}{self.named} {way}, away from its label "
            f"{float(labels[place]):.3g}{and_others(len(wrong) - 1, what)}",
            (len(wrong), 0, "rows"),
            counterexample=f"{self.counterexample}, {f'row={place[0]}' if labels.ndim == 1 else self._place(list(place))}",
            cause="predictions [B, 1] minus labels [B], which broadcasts to [B, B]; labels rounded to integers; labels on another scale than "
            "the predictions",
            code="trained_away_from_label",
        )

    def classes(self, value: Tensor, slope: Tensor, given: Tensor) -> Evidence:
        """Scores of classes go towards the class of their label."""
        slopes, labels = aligned(self.signature, self.output, slope, given)
        counts = (labels != IGNORED) & ~_is_settled(aligned(self.signature, self.output, value, given)[0], labels)
        pulled = _pulls_to(slopes, labels) & counts
        trained = (slopes != 0).any(-1) & counts
        wrong, silent = trained & ~pulled, counts & ~trained
        total = int(counts.sum())
        facts: dict[str, Any] = {"labels": total, "wrong": int(wrong.sum()), "untrained": int(silent.sum())}
        if not bool(trained.any()):
            return self._without_gradient(total, facts)
        if bool(wrong.any()):
            message, cause, code = self._say_wrong(slopes, labels, wrong, slope)
            number = float(wrong.sum())
            return Evidence.failed(
                _NAME, message, (number, 0.0, "labels"), counterexample=self.counterexample, cause=cause, details=facts, code=code
            )
        if bool(silent.any()):
            return Evidence.warned(
                _NAME,
                f"{loss_name(self.trial)} ignores {counted(int(silent.sum()), 'label')} of {total}{self.named}, such as that of "
                f"{self._place(silent.nonzero()[0].tolist())}",
                (int(silent.sum()), 0, "labels"),
                counterexample=self.counterexample,
                cause="a slice that is one position short, or a loss over only some of the positions",
                code="labels_ignored",
                details=facts,
            )
        message = f"every position{self.named} is trained towards its label ({total} labels)"
        return Evidence.ok(_NAME, message, (0, 0, "labels"), counterexample=self.counterexample, details=facts)

    def _without_gradient(self, total: int, facts: dict[str, Any] | None = None) -> Evidence:
        message = f"the loss of {loss_name(self.trial)} has no gradient with respect to the logits"
        cause, code = "logits that were detached, rounded or turned into an argmax", "no_gradient_to_logits"
        details = {**(facts or {}), **owned_by("step_updates")}
        if self.trial.subject.task.declared is not None:
            message = f"{loss_name(self.trial)} has no gradient with respect to output `{self.output.name}`, which has labels"
            cause = "an output that is detached, or a term that the loss leaves out; give the output `weight: 0` if it is not to be trained"
            code = "no_gradient_to_output"
            details = dict(facts or {}) if self.is_one_of_several else details
        return Evidence.failed(
            _NAME, message, (total, 0, "labels"), counterexample=self.counterexample, cause=cause, details=details, code=code
        )

    def _say_wrong(self, slopes: Tensor, labels: Tensor, wrong: Tensor, slope: Tensor) -> tuple[str, str, str]:
        """Message, cause and code."""
        name = loss_name(self.trial)
        for said, others, cause, code in _other_labels(self.signature, self.output, self.batch):
            reach = min(slope.shape[1], others.shape[1])
            ours, theirs = slope[:, :reach], others[:, :reach]
            known = (theirs != IGNORED) & (ours != 0).any(-1)
            if bool(known.any()) and bool((theirs < ours.shape[-1]).all()) and bool(_pulls_to(ours, theirs)[known].all()):
                return f"{name} trains each position{self.named} towards {said}", cause, code
        place = wrong.nonzero()[0].tolist()
        label, target = int(labels[tuple(place)]), int(slopes[tuple(place)].argmin())
        share = int(wrong.sum()) / int((labels != IGNORED).sum())
        return (
            f"{name} trains {self._place(place)}{self.named} towards class {target}, but its label is {label} ({share:.0%} of the labels are "
            "wrong)",
            "logits and labels that are flattened along different axes (view instead of transpose), the wrong class axis in cross_entropy, rows "
            "in a different order than their labels, or labels that were changed",
            "wrong_class",
        )

    def _place(self, index: list[int]) -> str:
        """An element of the labels, in words."""
        if BATCH not in self.signature.axes_of(self.signature.label_name(self.output)):
            return f"element {index[0] if len(index) == 1 else tuple(index)}"
        shift = int(self.signature.next_of(self.output) is not None)
        row, *rest = index
        if not rest:
            return f"row {row}"
        return f"position {rest[0] + shift if len(rest) == 1 else tuple(rest)} of row {row}"


def _is_settled(logits: Tensor, labels: Tensor) -> Tensor:
    """Where the model is as sure of the label as can be: what is left of the gradient there is rounding."""
    return logits.double().softmax(-1).gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1) > 1 - _SETTLED


def _pulls_to(slopes: Tensor, labels: Tensor) -> Tensor:
    """Whether each position's label is the class that is pushed up, or one of them."""
    own = slopes.gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1)
    return (own < 0) & ((own <= slopes.amin(-1)) | (-own >= _PULL * slopes.abs().amax(-1)))


def _other_labels(signature: Signature, output: Output, batch: Batch) -> list[tuple[str, Tensor, str, str]]:
    """What positions may be trained towards by mistake: said in words, as labels of the positions of the logits, why, and its code."""
    labels = labels_in(signature, output, batch)
    if labels.ndim != 2 or BATCH not in signature.axes_of(signature.label_name(output)) or output.classes != -1:
        return []
    no_shift = (
        "a missing shift: the labels are the input ids, and position t predicts token t + 1, logits[:, :-1] against labels[:, 1:]. If your "
        "data is shifted already, give the model an adapter or a training step that shifts these labels"
    )
    twice = "a shift in the training step on top of the one inside the model's loss, or of labels that are shifted already"
    found = [
        ("the label of the next position", labels[:, 1:], twice, "shifted_twice"),
        (
            "the label of the position before",
            torch.nn.functional.pad(labels, (1, 0), value=IGNORED),
            "a shift in the wrong direction",
            "shifted_backwards",
        ),
    ]
    if signature.next_of(output) is not None:
        back = found.pop()
        return [
            ("its own token, which is in the input", labels, no_shift, "not_shifted"),
            ("the token after the next", labels[:, 2:], twice, "shifted_twice"),
            ("the token before its own", *back[1:]),
        ]
    for each in signature.inputs:
        if isinstance(each.values, Ids) and batch[each.name].shape == labels.shape:
            cause = f"labels taken from `{each.name}`; the batch has `{signature.label_name(output)}`"
            found.append(("its own token instead of its label", batch[each.name], cause, "inputs_for_labels"))
    return found


_ROWS_OF_SCORES = 8
_SAME_GRADIENT = 1e-3
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
    sizes = replace(trial.subject.typical, batch=_ROWS_OF_SCORES) if signature.has_rows else trial.subject.typical
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
    if seen.twice:
        is_told = bool(guessing(signature)) and trial.subject.fresh_weights and initial_loss(trial).status is Status.FAIL
        return Evidence.failed(
            _NAME,
            f"{loss_name(trial)} takes {seen.twice} of an output: what is a probability already is taken for a score, so that no answer is ever "
            "sure",
            counterexample=sizes.describe(trial.subject.task),
            cause="an activation that is applied twice, once by the model or the training step and once by the loss",
            details=owned_by("initial_loss") if is_told else {},
            code="activation_before_loss",
        )
    if not known:
        return Evidence.skipped(_NAME, "the training step's scores cannot be told apart from other tensors")
    return Evidence.ok(_NAME, f"{loss_name(trial)} takes scores through no softmax, sigmoid, tanh or ReLU")


def _finding(trial: Trial, output: Output, activation: _Activation, at: str) -> Evidence:
    signature = trial.subject.task.signature
    is_told = activation.name == "softmax" and len(signature.taught) == 1 and output in guessing(signature)
    owner = owned_by("initial_loss") if is_told and trial.subject.fresh_weights else {}
    return Evidence.failed(
        _NAME,
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
    return factor > 0 and float((slope - factor * own).norm()) <= _SAME_GRADIENT * float(slope.norm())
