"""Whether a model can overfit one small batch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from harness.batches import Batch
from harness.evidence import Evidence, Status
from harness.models.adapter_layers import has_signs_of_adapters
from harness.owners import owned_by
from harness.runtime import processor_seconds
from harness.tasks.signature import Output
from harness.tasks.teaching import guessing, targeted
from harness.training.checks import first_failure
from harness.training.checks.batch_to_learn import batch_to_learn, goals_of
from harness.training.checks.initial_loss import initial_loss
from harness.training.checks.loss_targets import targets
from harness.training.checks.observation import loss_name
from harness.training.checks.optimizer_coverage import optimizer_coverage, tensors_of
from harness.training.checks.overfit_attempt import (
    ENOUGH,
    LONGEST,
    Attempt,
    Goal,
    Goals,
    attempt_to_overfit,
    describe_curve,
    is_falling,
)
from harness.training.checks.step_updates import step_updates
from harness.training.checks.training_loss import is_trained_otherwise
from harness.training.trial import Prepare, Trial
from harness.wording import counted

_NAME = "overfits_one_batch"
_WARM_UP = 10
_FIRST = 0.5
"""Share of the time that the first attempt has."""

_PART = 0.3
"""Share of what can be learnt up to which what is left is a matter of degree."""

_LEARNT = 0.01
"""Share of its first value that is left of the loss of a training that has learnt its batch."""

_USUAL = 1e-3
"""AdamW's own default."""

_ADAMW_RATES = (1e-3, 1e-4)

_SMALLEST, _TUNING = 1e-6, 1e-4
"""Between which rates trained weights are tuned."""

_BRINGS_WEIGHTS = ("from_pretrained", "pretrained_cfg")
"""What models have that come with trained weights: of Transformers, diffusers and the like, and of timm."""

_MOST = 0.5
"""Share of what can be learnt up to which an attempt that is still learning is on its way."""

_FEW, _FELL = 0.1, 0.02
"""Share of the parameters up to which only adapters are trained, and of what can be learnt from which a model of few has learnt something."""

_SHOWN = 3
_STILL = 0.01
"""A parameter that went less than this share of the way of the others does not move."""

_MANY_LABELS = 256
"""Random labels of a batch, such as those of the pixels of two images, that a sound model may not learn by heart in the steps there are."""

_CAUSE = (
    "labels that do not belong to their rows, inputs scaled to almost zero, a layer that is detached or saturated, logits that cannot grow "
    "(a softmax, sigmoid, tanh or ReLU at the end), or a learning rate that is far off"
)


def overfits_one_batch(trial: Trial) -> Evidence:
    """The model can overfit one small batch with its own optimizer.

    How far it got is measured with the loss of each output, without dropout, between what the best constant answer has and what the batch
    leaves open at all. The config's learning rate is tried first; where it does not get there, larger and smaller ones are, and where one
    of those works that is a warning. A LightningModule's own optimizers are used as they are, and compared with a plain AdamW when they fail.
    Of several outputs the one that is furthest from being learnt decides.
    """
    if not any(parameter.requires_grad for parameter in trial.subject.model.parameters()):
        return Evidence.skipped(_NAME, "the model has no trainable parameter")
    batch, sizes = batch_to_learn(trial)
    goals = {name: goal for name, goal in goals_of(trial, batch).items() if goal.reducible > 0}
    if not goals:
        return Evidence.skipped(_NAME, "the data has no batch with anything to learn: all rows or all labels are equal")
    if not trial.is_own:
        trial = replace(trial, config=trial.config.model_copy(update={"warmup_ratio": _WARM_UP / LONGEST}))
    ended = processor_seconds() + trial.seconds
    attempts = attempt_to_overfit(trial, batch, goals, trial.seconds * _FIRST)
    name = max(goals, key=lambda name: goals[name].left(attempts[name].best))
    first, goal = attempts[name], goals[name]
    what = _rows(trial, batch) + (f" by output `{name}`" if len(trial.subject.task.signature.taught) > 1 else "")
    facts: dict[str, Any] = {"counterexample": f"{sizes.describe(trial.subject.task)}, the same batch in every step"}
    left = goal.left(first.best)
    facts |= {"measured": (left, ENOUGH, ""), "compared": _left(left)}
    facts["details"] = {"losses": list(first.losses.values()), "floor": goal.floor, "guess": goal.guess, "optimizer": first.how}
    facts["details"]["plots"] = [_curves(goal, [(_told(trial, first), first)])]
    if left <= ENOUGH or _is_known(first, left, trial, batch, name):
        message = f"overfits {_rows(trial, batch)} in {counted(first.steps, 'step')}"
        message += f", by each of {len(goals)} outputs" if len(goals) > 1 else ""
        return Evidence.ok(_NAME, message, **facts)
    if first.diverged is not None and first.steps == 0:
        return Evidence.failed(_NAME, str(first.diverged), code="diverged", **facts)
    if first.scale and first.own <= _LEARNT:
        message = (
            f"{loss_name(trial)} learns {_rows(trial, batch)}, {first.own:.2%} of its loss is left, but output `{name}` is not the labels: it "
            f"is {first.scale}"
        )
        cause = (
            "labels that are scaled for the loss, and answers that forward does not scale back; or labels that the config gives on another "
            "scale than the outputs"
        )
        return Evidence.failed(_NAME, message, cause=cause, code="output_on_another_scale", **facts)
    if first.late and not _is_stuck(first, goal):
        return Evidence.skipped(_NAME, first.late, counterexample=facts["counterexample"])
    owner = _owner(trial)
    if owner is not None:
        facts["details"] |= owned_by(owner[0])
        return Evidence.failed(_NAME, f"cannot overfit {what}: {owner[1].message}", code="cannot_overfit", **facts)
    return _Search(trial, batch, goals, name, what, first, ended, facts).judge()


def _is_known(attempt: Attempt, left: float, trial: Trial, batch: Batch, output: str) -> bool:
    """Whether a model predicts every label, and smoothed ones keep its loss above; or nearly every one, by another loss than is measured."""
    is_smoothed = attempt.predicted == 1.0 and left <= _PART and attempt.largest > 1.0
    return is_smoothed or (attempt.predicted >= 1 - ENOUGH and is_trained_otherwise(trial, output, batch))


@dataclass(frozen=True)
class _Search:
    """Other optimizers, tried where the first did not get there.

    Attributes:
        trial: The model.
        batch: What is learnt.
        goals: What there is to learn, by output.
        output: The name of the output that is judged.
        what: What is learnt, as a phrase.
        first: The first attempt.
        ended: When time is up.
        facts: Of the evidence.
    """

    trial: Trial
    batch: Batch
    goals: Goals
    output: str
    what: str
    first: Attempt
    ended: float
    facts: dict[str, Any]

    @property
    def goal(self) -> Goal:
        """What there is to learn of the output."""
        return self.goals[self.output]

    @property
    def _judged(self) -> Output:
        return next(each for each in self.trial.subject.task.signature.outputs if each.name == self.output)

    def _labels(self) -> int:
        return int(self.trial.subject.task.signature.label_count(self._judged, self.batch))

    def judge(self) -> Evidence:
        """The verdict by what other optimizers reach."""
        trial, first, goal, facts, what = self.trial, self.first, self.goal, self.facts, self.what
        attempts, curves = [first], [(_told(trial, first), first)]
        for name, rate, prepare in _alternatives(trial, first):
            seconds = (self.ended - processor_seconds()) / 2
            attempt = attempt_to_overfit(trial, self.batch, self.goals, seconds, rate, prepare)[self.output]
            curves.append((name if trial.is_own else f"learning rate {name}", attempt))
            facts["details"]["plots"] = [_curves(goal, curves)]
            left = goal.left(attempt.best)
            if left <= ENOUGH or _is_known(attempt, left, trial, self.batch, self.output):
                return self._learns_otherwise(name, attempt)
            attempts.append(attempt)
            if attempt.late:
                break
        best = min(attempts, key=lambda attempt: goal.left(attempt.best))
        left = goal.left(best.best)
        tried = "" if len(attempts) == 1 else f"; {counted(len(attempts) - 1, 'other learning rate')} tried, none better"
        facts |= {"measured": (left, ENOUGH, ""), "compared": _left(left)}
        is_late, falls = any(attempt.late for attempt in attempts), is_falling(best, goal)
        if is_late or falls:
            message = f"{left:.0%} of the loss that can be learnt on {what} is left after {best.steps} steps: {describe_curve(best, goal)}"
            are_many = not trial.names_data and self._labels() > _MANY_LABELS
            if are_many:
                message += f"; its {self._labels()} labels are random, and more than a small model learns by heart: name a dataset in `train`"
            if are_many or (is_late and falls):  # what is cut short by the time there is may still get there
                return Evidence.judged(_NAME, Status.SKIPPED, message, **facts)
            cause = "a model that learns slowly, or labels far from the scale of its outputs"
            return Evidence.warned(_NAME, message, cause=cause, code="learns_slowly", **facts)
        if (few := self._too_few()) and left < goal.left(first.losses[0]) - _FELL:
            return Evidence.judged(_NAME, Status.SKIPPED, f"{few} ({describe_curve(best, goal)})", **facts)
        bounded = best.predicted == 1.0 and best.largest <= 1.0
        status = Status.WARN if left <= _PART and not bounded else Status.FAIL
        if targets(trial).status is Status.WARN:  # labels that are left out cannot be learnt
            facts["details"] |= owned_by("training_loss[targets]")
        verb = "overfits only partly" if left <= _PART else "cannot overfit"
        message = f"{verb} {what}: {describe_curve(best, goal)}{_beside(best, bounded)}{tried}"
        module = next(iter(_unmoved(best)), "")
        cause = (
            _CAUSE
            if trial.subject.task.declared is None
            else f"{_CAUSE}; declare `fits: false` for an output that is a bottleneck's"
        )
        return Evidence.judged(_NAME, status, message, module=module, cause=cause, code="cannot_overfit", **facts)

    def _too_few(self) -> str:
        """Why so few parameters are trained that a sound model may not know the batch by heart, as a phrase."""
        model = self.trial.subject.model
        trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
        all_ = sum(each.numel() for each in model.parameters())
        if trained <= _FEW * all_ or (trained < all_ and has_signs_of_adapters(model)):
            return f"{trained / all_:.1%} of the parameters are trained, as those of adapters, which may learn little by heart"
        signature = self.trial.subject.task.signature
        is_input = signature.label_name(self._judged) in signature.label_sources
        if not self.trial.names_data and not is_input and trained < self._labels():
            return f"{counted(trained, 'parameter')} cannot hold {self._labels()} random labels: name a dataset in `train`"
        return ""

    def _is_of_trained_weights(self, rate: float) -> bool:
        """Whether a rate is one by which trained weights are tuned, of a model whose class brings some: fresh ones stand in their place."""
        modules = self.trial.subject.model.modules()
        return _SMALLEST <= rate <= _TUNING and any(hasattr(each, name) for each in modules for name in _BRINGS_WEIGHTS)

    def _learns_otherwise(self, name: str, attempt: Attempt) -> Evidence:
        trial, first, goal = self.trial, self.first, self.goal
        if not trial.is_rate_chosen:
            message = f"overfits {self.what} in {counted(attempt.steps, 'step')} at learning rate {name}"
            default = f"the default `learning_rate`, {trial.config.learning_rate:g}, does not in {first.steps}"
            left = goal.left(attempt.best)
            return Evidence.ok(
                _NAME, f"{message}; {default}", **{**self.facts, "measured": (left, ENOUGH, ""), "compared": _left(left)}
            )
        how = "the model's optimizer" if trial.is_own else f"`learning_rate` {trial.config.learning_rate:g}"
        message = (
            f"{how} does not overfit {self.what} in {first.steps} steps: {describe_curve(first, goal)}; {name} does in {attempt.steps}"
            f"{f' ({first.how})' if trial.is_own and first.how else ''}"
        )
        if first.losses[first.steps] <= first.losses[0] and self._is_of_trained_weights(first.rate):
            return Evidence.ok(_NAME, f"{message}. It is a rate for trained weights", **self.facts)
        if is_falling(first, goal) and goal.left(first.best) <= _MOST:
            return Evidence.ok(_NAME, message, **self.facts)
        cause = "a learning rate or schedule that does not fit the model"
        return Evidence.warned(_NAME, message, cause=cause, code="only_with_other_rate", **self.facts)


def _left(share: float) -> str:
    return f"{share:.0%} of the loss that can be learnt is left, allowed {ENOUGH:.0%}"


def _told(trial: Trial, attempt: Attempt) -> str:
    """The first attempt, in the words in which the others are told."""
    return attempt.how or "as configured" if trial.is_own else f"learning rate {trial.config.learning_rate:g}"


def _curves(goal: Goal, attempts: Sequence[tuple[str, Attempt]]) -> dict[str, Any]:
    """The loss of each attempt by step, as a picture."""
    lines = [
        {"label": how, "x": list(known), "y": list(known.values())}
        for how, attempt in attempts
        if (known := {step: loss for step, loss in attempt.losses.items() if math.isfinite(loss)})
    ]
    limits = {"best constant answer": goal.guess, **({"lowest possible loss": goal.floor} if goal.floor > 0 else {})}
    return {
        "kind": "curves",
        "title": "Loss of the batch",
        "caption": "The same batch in every step, measured without dropout",
        "x": "step",
        "y": "loss",
        "lines": lines,
        "limits": limits,
    }


def _alternatives(trial: Trial, first: Attempt) -> Iterator[tuple[str, float | None, Prepare | None]]:
    """Other optimizers: what they are called, a learning rate, and a change of the model."""
    if trial.is_own:
        for rate in _ADAMW_RATES:
            yield f"AdamW at {rate:g}", None, partial(_give_adamw, rate)
        return
    config = trial.config.learning_rate
    rose = first.diverged is not None or first.losses[first.steps] > first.losses[0]
    rates = [config * factor for factor in ((0.1, 0.01, 10.0) if rose else (10.0, 0.1, 100.0))]
    usual = [] if min(rates) <= _USUAL <= max(rates) else [_USUAL]
    for rate in (*rates, *usual):
        yield f"{rate:.3g}", rate, None


def _give_adamw(rate: float, model: Any) -> None:
    """A LightningModule with a plain AdamW in place of its own optimizer, or of each of them."""
    configure = model.configure_optimizers

    def configure_optimizers() -> Any:
        if model.automatic_optimization:
            return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
        return [torch.optim.AdamW(tensors_of(optimizer), lr=rate) for optimizer in _optimizers_in(configure())]

    model.configure_optimizers = configure_optimizers


def _optimizers_in(configured: Any) -> list[torch.optim.Optimizer]:
    """The optimizers in what ``configure_optimizers`` returns."""
    if isinstance(configured, torch.optim.Optimizer):
        return [configured]
    if isinstance(configured, dict):
        return _optimizers_in(configured.get("optimizer"))
    return [each for part in configured for each in _optimizers_in(part)] if isinstance(configured, (list, tuple)) else []


def _owner(trial: Trial) -> tuple[str, Evidence] | None:
    """The finding of another check that keeps the model from learning."""
    checks: dict[str, Callable[[Trial], Evidence]] = {
        "optimizer_coverage": optimizer_coverage,
        "step_updates": step_updates,
        "training_loss[targets]": targets,
    }
    signature = trial.subject.task.signature
    if not targeted(signature):
        del checks["training_loss[targets]"]
    return first_failure({**checks, "initial_loss": initial_loss} if guessing(signature) else checks, trial)


def _is_stuck(attempt: Attempt, goal: Goal) -> bool:
    return attempt.steps >= LONGEST // 2 and not is_falling(attempt, goal)


def _rows(trial: Trial, batch: Batch) -> str:
    signature = trial.subject.task.signature
    return counted(signature.row_count(batch), "row") if signature.has_rows else "one batch"


def _beside(attempt: Attempt, bounded: bool) -> str:
    """What else is known of an attempt, as a phrase."""
    if bounded:
        return ", though every label is predicted correctly: the logits stay between -1 and 1"
    unmoved = _unmoved(attempt)
    return f"; {', '.join(f'`{name}`' for name in unmoved[:_SHOWN])} hardly changed" if unmoved else ""


def _unmoved(attempt: Attempt) -> list[str]:
    """Modules of which no parameter moved, or hardly, beside others that did; inner ones are left to those around them."""
    moved = {name: way for name, way in attempt.moved.items() if way > 0 and name in attempt.reached}
    if not moved:
        return []
    usual = statistics.median(moved.values())
    ways: dict[str, float] = {}
    for name, way in attempt.moved.items():
        owner = name.rpartition(".")[0] or name
        ways[owner] = max(ways.get(owner, 0.0), way if name in attempt.reached else 0.0)
    return [owner for owner, way in ways.items() if way < _STILL * usual]
