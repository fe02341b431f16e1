"""Whether clipping limits the gradients that a step is taken with."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from harness.evidence import Evidence, Status
from harness.training.checks.lines import users_line
from harness.training.checks.observation import loss_name
from harness.training.checks.optimizer_coverage import tensors_of
from harness.training.optimisation import Clip, replaced_clipping
from harness.training.trial import Trial, TrialOptions
from harness.wording import and_others

_NAME = "gradient_clipping"
_STEPS = 3
_SAME = 1e-4
"""Relative difference up to which gradients are the same."""

Gradients = dict[int, Tensor]
"""Copies of gradients by the id of their parameter; without those that are absent."""


@dataclass(frozen=True)
class _Clipped:
    """A call that clips.

    Attributes:
        held: The parameters it was given.
        before: Their gradients, as it found them.
        after: As it left them.
        place: The user's line that called it.
    """

    held: frozenset[int]
    before: Gradients
    after: Gradients
    place: str


@dataclass(frozen=True)
class _Stepped:
    """A step that an optimizer has taken.

    Attributes:
        held: The parameters of the optimizer.
        gradients: What the step was taken with.
    """

    held: frozenset[int]
    gradients: Gradients


@dataclass
class _Watch:
    """What was clipped and stepped, in order.

    Attributes:
        events: The calls and steps.
        names: The model's parameters by id.
        kept: Keeps the parameters, so that no other tensor takes the id of one.
    """

    events: list[_Clipped | _Stepped] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    kept: list[nn.Parameter] = field(default_factory=list)

    def start(self, model: nn.Module) -> None:
        """The model before it is trained."""
        self.kept = list(model.parameters())
        self.names = {id(parameter): name for name, parameter in model.named_parameters()}

    def listening(self, clip: Clip, limit: str) -> Clip:
        """A function that clips as another one does, and is noted; without a limit it only measures."""

        @wraps(clip)
        def note(parameters: Any, *limits: Any, **more: Any) -> Any:
            given = [parameters] if isinstance(parameters, Tensor) else list(parameters)
            before = _gradients(given)
            result = clip(given, *limits, **more)
            if math.isfinite(float(limits[0] if limits else more.get(limit, math.inf))):
                self.events.append(_Clipped(frozenset(map(id, given)), before, _gradients(given), users_line(sys._getframe(1))))
            return result

        return note

    def stepped(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        """An optimizer has taken a step."""
        own = tensors_of(optimizer)
        if any(id(tensor) in self.names for tensor in own):
            self.events.append(_Stepped(frozenset(map(id, own)), _gradients(own)))


def _gradients(tensors: Iterable[Tensor]) -> Gradients:
    return {id(tensor): tensor.grad.detach().to_dense().clone() for tensor in tensors if tensor.grad is not None}


def gradient_clipping(trial: Trial) -> Evidence:
    """What a training step clips itself is what the next step is taken with: neither cleared, nor scaled, nor added to after it.

    Clipping by PyTorch's functions is seen, and that by the Trainer is not judged: it is Lightning's.
    """
    if not trial.is_own:
        return Evidence.skipped(_NAME, "gradients are clipped by the suite, as `max_grad_norm` says")
    if not any(parameter.requires_grad for parameter in trial.subject.model.parameters()):
        return Evidence.skipped(_NAME, "the model has no trainable parameter")
    watch = _Watch()
    count = _STEPS * max(1, trial.batches_per_step)
    unclipped = replace(trial, config=trial.config.model_copy(update={"max_grad_norm": 0.0}))
    hook = register_optimizer_step_post_hook(watch.stepped)
    try:
        with replaced_clipping(trial.subject.model, watch.listening):
            batches = [trial.subject.batch(seed=seed) for seed in range(count)]
            unclipped.train(batches, TrialOptions(limit=_STEPS), prepare=watch.start)
    finally:
        hook.remove()
    if not any(isinstance(event, _Clipped) for event in watch.events):
        return Evidence.skipped(_NAME, "the model clips no gradients itself")
    if not any(isinstance(event, _Stepped) for event in watch.events):
        return Evidence.skipped(_NAME, "no optimizer step was seen")
    return _judge(trial, watch)


def _judge(trial: Trial, watch: _Watch) -> Evidence:
    who = loss_name(trial)
    pending: list[_Clipped] = []
    taken: _Stepped | None = None
    for event in watch.events:
        if isinstance(event, _Clipped):
            found = _judge_call(event, taken, who)
            if found is not None:
                return found.at(event.place)
            pending.append(event)
            continue
        clipped = [call for call in pending if call.held & event.held]
        found = _judge_step(clipped, event, watch, who) if clipped else None
        if found is not None:
            return found.at(clipped[-1].place)
        pending, taken = [call for call in pending if not call.held & event.held], event
    return Evidence.ok(_NAME, "every step is taken with the gradients that were clipped")


def _judge_call(call: _Clipped, taken: _Stepped | None, who: str) -> Evidence | None:
    """A finding where a call has nothing to clip, or what it clips was used already."""
    if taken is not None and call.before and _factor(taken.gradients, call.before) == 1.0:
        return _finding(
            f"{who} clips the gradients that the step before was taken with, so no step is taken with clipped ones",
            "clip_grad_norm_ after optimizer.step(), or in a training_step that Lightning calls before the backward pass: clip between "
            "backward and step, in configure_gradient_clipping under automatic optimisation",
            "clipped_too_late",
        )
    if not any(bool(gradient.any()) for gradient in call.before.values()):
        return _finding(
            f"{who} clips gradients when there are none",
            "clip_grad_norm_ before the backward pass, or after zero_grad(): clip between backward and step",
            "nothing_to_clip",
        )
    return None


def _judge_step(clipped: Sequence[_Clipped], step: _Stepped, watch: _Watch, who: str) -> Evidence | None:
    """A finding where a step is taken with other gradients than those that were clipped for it."""
    left: Gradients = {}
    for call in clipped:
        left |= call.after
    factor = _factor(left, step.gradients)
    if factor is None:
        return _finding(
            f"{who} clips gradients, and they change before the step is taken",
            "another backward pass after clipping: clip once, after the last one; fine where noise is added on purpose",
            "changed_after_clipping",
            status=Status.WARN,
        )
    if factor != 1.0:
        return _finding(
            f"{who} clips gradients, and then multiplies them by {factor:.3g} before the step is taken, so that the limit is another one",
            "clipping before scaler.unscale_(optimizer), or before a division by the number of batches or labels",
            "clipped_before_unscaling",
        )
    missed = [key for key, gradient in step.gradients.items() if key not in left and key in watch.names and bool(gradient.any())]
    if missed:
        names = [watch.names[key] for key in missed]
        return _finding(
            f"{who} clips the gradients of some parameters of a step, and not that of `{names[0]}`"
            f"{and_others(len(names) - 1, 'parameter')}",
            "clip_grad_norm_ over one part of what the optimizer holds: give it all of it, so that the gradient keeps its direction",
            "clipped_in_part",
            names,
            Status.WARN,
        )
    return None


def _factor(before: Gradients, after: Gradients) -> float | None:
    """What all gradients that two have in common were multiplied by; ``None`` where that is not one number."""
    shared = [key for key in before if key in after and before[key].shape == after[key].shape]
    if not shared:
        return None
    one, other = (torch.cat([found[key].flatten().double() for key in shared]) for found in (before, after))
    size = float(one.square().sum())
    factor = float((one * other).sum()) / size if size else 0.0
    if not factor > 0 or float((other - factor * one).norm()) > _SAME * float(other.norm()):
        return None
    return 1.0 if abs(factor - 1) <= _SAME else factor


def _finding(message: str, cause: str, code: str, names: Sequence[str] = (), status: Status = Status.FAIL) -> Evidence:
    module = names[0] if names else ""
    return Evidence(_NAME, status, message, module=module, cause=cause, details={"parameters": list(names)}, code=code)
