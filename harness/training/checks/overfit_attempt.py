"""One attempt to overfit a batch, and the shape of its loss curve."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from harness.batches import IGNORED, Batch
from harness.compat import BatchNorm
from harness.errors import DivergedError
from harness.properties.calling import mode
from harness.properties.large_tensors import largest_absolute
from harness.properties.subject import Subject
from harness.runtime import processor_seconds
from harness.tasks.signature import Output
from harness.training.checks.labels import guessing_loss, irreducible_loss, labelled, labels_in
from harness.training.engines import gradients_of
from harness.training.optimisation import rate_of
from harness.training.trial import Prepare, Trial, TrialOptions, seconds_per_step

ENOUGH = 0.1
"""Share of the loss that may be left; a model that ignores its inputs leaves all of it."""

LONGEST = 1500
_UNHEARD = 300
_HEARD = 16
"""Batches after which a training step that accumulates by itself must have taken a step that is heard of."""

_LOOK_EVERY = 10
_PATIENCE = 120
"""Steps without progress after which an attempt is given up, at least."""

_PROGRESS = 0.02
_JUDGED = 300
"""Steps from which it can be told whether those that are left will do."""

_HOPE = 2
"""How much faster than now an attempt may become."""

_TIMED = 5
"""Steps by which it is known how long the others take."""

_LEAST = 100
"""Steps that must fit into the time for an attempt to be made."""

_FLAT = 0.02

_TELLING = 4
"""Labels from which two numbers of a scale are told from chance."""

_FOLLOWS = 0.02
"""What a scale may leave of the spread of the outputs that follow the labels on it."""

OF_NUMBERS = ("mse", "l1", "huber")
"""Losses of outputs that are to come to numbers."""


@dataclass(frozen=True)
class Goal:
    """What there is to learn in a batch of the labels of an output.

    Attributes:
        guess: Loss of the best answer that ignores the inputs.
        floor: Loss that no model can go below, as equal inputs have different labels.
    """

    guess: float
    floor: float

    @staticmethod
    def of(subject: Subject, output: Output, batch: Batch) -> Goal:
        """The goal of a batch."""
        signature = subject.task.signature
        if output.loss == "ctc":  # what a uniform guess has; which constant is best is not known
            value = torch.zeros_like(subject.outputs(batch, subject.fresh())[output.name])
            return Goal(float(signature.loss_of(output, value, batch)), 0.0)
        return Goal(guessing_loss(signature, output, batch), irreducible_loss(signature, output, batch))

    @property
    def reducible(self) -> float:
        """What a model can learn of it."""
        return self.guess - self.floor

    def left(self, loss: float) -> float:
        """Share of what can be learnt that is not learnt yet."""
        return max(0.0, loss - self.floor) / self.reducible if loss == loss else float("inf")


Goals = Mapping[str, Goal]
"""By output."""


@dataclass
class Attempt:
    """What came of an attempt, of one output.

    Attributes:
        how: The optimizer, as a phrase.
        rate: Its largest learning rate, without what a schedule makes of it.
        losses: The output's own loss on the batch with dropout off, by step.
        diverged: Why it broke off, where the loss or a gradient became NaN.
        late: Why there was no time for it.
        predicted: Share of the labels that the model predicts, at the end; of numbers 0.
        largest: Largest absolute value of the output at the end.
        moved: How far each trainable parameter went, relative to its size.
        reached: Names of the parameters that got a gradient.
        own: What is left of the loss that the model was trained by, as a share of the first.
        scale: What the output is of the labels where it follows them on another scale, as a phrase; empty where it does not.
    """

    how: str = ""
    rate: float = 0.0
    losses: dict[int, float] = field(default_factory=dict)
    diverged: DivergedError | None = None
    late: str = ""
    predicted: float = 0.0
    largest: float = 0.0
    moved: dict[str, float] = field(default_factory=dict)
    reached: set[str] = field(default_factory=set)
    own: float = 1.0
    scale: str = ""

    @property
    def best(self) -> float:
        """The lowest loss."""
        return min((loss for loss in self.losses.values() if loss == loss), default=float("inf"))

    @property
    def steps(self) -> int:
        """The last step at which it was looked at."""
        return max(self.losses, default=0)


class _Watcher:
    """Looks at a model now and then while it learns, and ends the training when nothing more is to be learnt from it."""

    def __init__(self, trial: Trial, batch: Batch, goals: Goals, seconds: float) -> None:
        self.attempt = Attempt()
        self.losses: dict[str, dict[int, float]] = {name: {} for name in goals}
        self._subject, self._batch, self._goals, self._seconds = trial.subject, batch, goals, seconds
        self._started = processor_seconds()
        self._warm = self._started
        self._first: dict[str, Tensor] = {}
        self._steps = 0

    def start(self, model: nn.Module) -> None:
        """The model before it learns."""
        self._first = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        self._note(model, 0)

    def look(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        """A step is about to be taken."""
        if not self.attempt.how:
            self.attempt.how = _describe_optimizer(optimizers[0])
            groups = (group for optimizer in optimizers for group in optimizer.param_groups)
            self.attempt.rate = max(group.get("initial_lr") or rate_of(group) for group in groups)
        if self._steps % _LOOK_EVERY == 0:
            self.attempt.reached |= {name for name, gradient in gradients_of(model).items() if bool(gradient.any())}

    def is_over(self, model: nn.Module, steps: int) -> bool:
        """Whether the attempt ends with the step that was taken."""
        self._steps = steps
        now = processor_seconds()
        spent = now - self._started
        if steps == 1:
            self._warm = now  # the first step imports and allocates
        each = (now - self._warm) / max(1, steps - 1)
        if steps == _TIMED and each * _LEAST > self._seconds:
            self.attempt.late = (
                f"a step takes {each:.2g} s, so the {_LEAST} steps needed at least would take {each * _LEAST:.2g} s, and `time_budget` leaves "
                f"{self._seconds:.2g} s"
            )
        elif spent > self._seconds:
            self.attempt.late = f"{steps} steps took all of the {self._seconds:.2g} s that `time_budget` leaves this check"
        if not self.attempt.late and steps % _LOOK_EVERY:
            return False
        self._note(model, steps)
        return bool(self.attempt.late) or self._is_settled(steps)

    def look_at_last(self, model: nn.Module) -> None:
        """The training went to its end, and no step of it was heard of."""
        self._note(model, _UNHEARD)

    def _note(self, model: nn.Module, steps: int) -> None:
        for name, loss in losses_of_batch(self._subject, self._batch, model, self._goals).items():
            self.losses[name][steps] = loss

    def finish(self, model: nn.Module) -> dict[str, Attempt]:
        """What came of it, by output."""
        now = dict(model.named_parameters())
        for name, before in self._first.items():
            if name in now and now[name].shape == before.shape:
                way = float((now[name].detach() - before).norm())
                self.attempt.moved[name] = way / max(float(before.norm()), 1e-12)
        found = _predictions(self._subject, self._batch, model, self._goals)
        return {
            name: replace(self.attempt, losses=losses, predicted=found[name][0], largest=found[name][1], scale=found[name][2])
            for name, losses in self.losses.items()
        }

    def _is_settled(self, steps: int) -> bool:
        """Whether the batch is known, or no progress was made for long: of all outputs that are not known yet."""
        open_ = [name for name, goal in self._goals.items() if goal.left(self.losses[name][steps]) > ENOUGH]
        return all(self._is_without_progress(name, steps) for name in open_)

    def _is_without_progress(self, name: str, steps: int) -> bool:
        losses, goal = self.losses[name], self._goals[name]
        best = min((loss for loss in losses.values() if loss == loss), default=float("inf"))
        since = steps - max(_PATIENCE, steps // 2)
        before = [loss for step, loss in losses.items() if step <= since]
        if not before:
            return False
        progress = (min(before) - best) / goal.reducible
        to_come = progress / (steps - since) * (LONGEST - steps)
        is_hopeless = steps >= _JUDGED and goal.left(best) - _HOPE * to_come > ENOUGH
        return progress < _PROGRESS or is_hopeless


def attempt_to_overfit(
    trial: Trial, batch: Batch, goals: Goals, seconds: float, rate: float | None = None, prepare: Prepare | None = None
) -> dict[str, Attempt]:
    """Trains a fresh copy of the model on one batch over and over, until it knows it or gets no further.

    Args:
        trial: The model.
        batch: What it learns.
        goals: What there is to learn, by output.
        seconds: What the attempt may take.
        rate: A learning rate in place of the config's.
        prepare: Changes the copy first.

    Returns:
        What came of it, by output.
    """
    watcher = _Watcher(trial, batch, goals, seconds)

    def set_up(model: nn.Module) -> None:
        if prepare is not None:
            prepare(model)
        watcher.start(model)

    model = trial.subject.fresh()
    try:
        losses = trial.train(
            [batch] * _count(trial, seconds),
            TrialOptions(rate=rate),
            prepare=set_up,
            on_gradients=watcher.look,
            model=model,
            until=watcher.is_over,
        ).losses
        watcher.attempt.own = losses[-1] / losses[0] if losses and losses[0] > 0 else 1.0
    except DivergedError as error:
        watcher.attempt.diverged = error
    if watcher.attempt.diverged is None and max(watcher.losses[next(iter(goals))]) == 0:
        watcher.look_at_last(model)
    return watcher.finish(model)


def _count(trial: Trial, seconds: float) -> int:
    """How often the batch is given; a training step that steps its optimizers past Lightning is not heard of, and not stopped in time."""
    if getattr(trial.subject.model, "automatic_optimization", True):
        return LONGEST
    if trial.train([trial.subject.batch()] * _HEARD, TrialOptions(limit=1)).steps:
        return LONGEST
    return max(1, min(_UNHEARD, int(min(seconds, 1e9) / seconds_per_step(trial))))


def losses_of_batch(subject: Subject, batch: Batch, model: nn.Module, names: Iterable[str]) -> dict[str, float]:
    """The mean loss of some outputs on a batch, each by its own loss, whatever loss the model is trained by.

    They are measured without dropout. Norms over the batch are tried both ways, as their running statistics lag behind: what the model knows
    in either way it knows.
    """
    found = [_losses(subject, batch, model, names)]
    if any(_is_lagging(module) for module in model.modules()):
        with _batch_statistics(model):
            found.append(_losses(subject, batch, model, names, keep_mode=True))
    return {name: min((each[name] for each in found if each[name] == each[name]), default=float("nan")) for name in names}


def _losses(subject: Subject, batch: Batch, model: nn.Module, names: Iterable[str], keep_mode: bool = False) -> dict[str, float]:
    values, signature = _outputs(subject, batch, model, keep_mode), subject.task.signature
    outputs = {output.name: output for output in signature.outputs}
    return {name: float(signature.loss_of(outputs[name], values[name], batch)) for name in names}


@torch.no_grad()
def _outputs(subject: Subject, batch: Batch, model: nn.Module, keep_mode: bool = False) -> dict[str, Any]:
    if keep_mode:
        return subject.outputs(batch, model)
    with mode(model, train=False):
        return subject.outputs(batch, model)


def _is_lagging(module: nn.Module) -> bool:
    return isinstance(module, BatchNorm) and module.track_running_stats


@contextmanager
def _batch_statistics(model: nn.Module) -> Iterator[None]:
    """The model in eval mode but for its norms over the batch; their running statistics are left as they were."""
    kept = {buffer: buffer.detach().clone() for buffer in model.buffers()}
    with mode(model, train=False):
        for module in model.modules():
            if _is_lagging(module):
                module.training = True
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, value in kept.items():
                    buffer.copy_(value)


def _predictions(subject: Subject, batch: Batch, model: nn.Module, names: Iterable[str]) -> dict[str, tuple[float, float, str]]:
    """By output, the share of the labels that the model predicts, its largest absolute value, and what it is of the labels."""
    values, signature = _outputs(subject, batch, model), subject.task.signature
    found = {}
    for output in (each for each in signature.outputs if each.name in names):
        value, share, scale = values[output.name], 0.0, ""
        labels = labels_in(signature, output, batch)
        if output.loss != "ctc" and not labels.is_floating_point():
            scores, labels = labelled(signature, output, value, labels)
            share = float((scores.argmax(-1) == labels).double().mean())
        elif output.loss in OF_NUMBERS and value.numel() == labels.numel():
            scale = _scale_of(value.double().flatten(), labels.double().flatten())
        found[output.name] = (share, largest_absolute(value), scale)
    return found


def _scale_of(values: Tensor, labels: Tensor) -> str:
    """What values are of labels that they follow on another scale, as a phrase; empty where they do not follow them."""
    known = labels != IGNORED
    values, labels = values[known], labels[known]
    if len(labels) < _TELLING or not bool(values.isfinite().all()):
        return ""
    for told, scaled in (
        ("the labels", labels),
        ("the logarithms of the labels", labels.log()),
        ("log1p of the labels", labels.log1p()),
    ):
        if not bool(scaled.isfinite().all()):
            continue
        table = torch.stack([scaled, torch.ones_like(scaled)], 1)
        factor, shift = (float(each) for each in torch.linalg.lstsq(table, values[:, None]).solution[:, 0])
        spread = float((values - values.mean()).norm())
        if spread and float((values - factor * scaled - shift).norm()) <= _FOLLOWS * spread:
            return f"{told} times {factor:.3g} {'plus' if shift >= 0 else 'minus'} {abs(shift):.3g}"
    return ""


def _describe_optimizer(optimizer: Optimizer) -> str:
    rates = sorted({rate_of(group) for group in optimizer.param_groups if group.get("lr") is not None})
    if not rates:
        return f"{type(optimizer).__name__}, which finds its own learning rate"
    shown = f"{rates[0]:.3g}" if len(rates) == 1 else f"{rates[0]:.3g} to {rates[-1]:.3g}"
    return f"{type(optimizer).__name__}, learning rate {shown} at its first step"


def describe_curve(attempt: Attempt, goal: Goal) -> str:
    """What the loss of an attempt did: rose, stayed, got stuck, was still falling, or became NaN."""
    if attempt.diverged is not None:
        return "the loss became NaN or infinite"
    losses = list(attempt.losses.values())
    start, end = losses[0], losses[-1]
    floor = f" (lowest possible {goal.floor:.3g})" if goal.floor > _FLAT * goal.guess else ""
    if end > start + _FLAT * goal.reducible:
        return f"the loss rises from {start:.3g} to {end:.3g}"
    if start - end < _FLAT * goal.reducible:
        return f"the loss stays flat, {start:.3g} before and {end:.3g} after"
    if is_falling(attempt, goal):
        return f"the loss is still falling, from {start:.3g} to {end:.3g}{floor}"
    return f"the loss is stuck at {attempt.best:.3g}, from {start:.3g}{floor}"


def is_falling(attempt: Attempt, goal: Goal) -> bool:
    """Whether the last third of an attempt still got somewhere."""
    then = [loss for step, loss in attempt.losses.items() if step <= attempt.steps * 2 / 3]
    return bool(then) and attempt.diverged is None and min(then) - attempt.best >= _FLAT * goal.reducible
