"""What one step leaves behind for the next one, for a step of another optimizer, and for the next epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from harness.batches import Batch
from harness.training.checks.gradient_noise import Quantities, disable_stochastic_layers
from harness.training.checks.labels import fully_labelled
from harness.training.checks.observation import observe
from harness.training.checks.optimizer_coverage import tensors_of
from harness.training.checks.training_loss import share_of
from harness.training.checks.training_trace import same_bits
from harness.training.engines import gradients_of, weights_of
from harness.training.optimisation import RateScale
from harness.training.trial import UNVARIED, Trial, TrialOptions, Variation

_ROWS_PER_BATCH = 2
_PARALLEL = 0.99
"""Cosine from which one gradient is a multiple of another."""

_SAME = 1e-2
"""Relative difference up to which two factors are the same."""


@dataclass
class _TwoSteps:
    """What was seen of two steps.

    Attributes:
        gradients: At each step, of the parameters that the optimizer holds: it clears no others.
        state: The model as the batches of the second step find it.
    """

    gradients: list[Quantities] = field(default_factory=list)
    state: dict[str, Tensor] = field(default_factory=dict)

    def watch(self, model: Any) -> None:
        """Waits for the first batch after the first step; a training step may move an average before it calls any module."""
        begin = model.on_train_batch_start

        def note(*call: Any) -> Any:
            if len(self.gradients) == 1 and not self.state:
                self.state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
            return begin(*call)

        model.on_train_batch_start = note

    def look(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        """A step is about to be taken."""
        held = {id(tensor) for optimizer in optimizers for tensor in tensors_of(optimizer)}
        names = {name for name, parameter in model.named_parameters() if id(parameter) in held}
        self.gradients.append({name: gradient for name, gradient in gradients_of(model).items() if name in names})


def second_step(every: int, trial: Trial, vary: Variation = UNVARIED) -> Quantities:
    """The gradient at the second step.

    Args:
        every: Batches a step.
        trial: The model.
        vary: How the training is varied.
    """
    return _two_steps(every, trial, vary).gradients[-1]


def second_step_repeated(every: int, trial: Trial, vary: Variation = UNVARIED) -> Quantities:
    """The gradient of the second step's batches in a model that has the weights of there and no past; arguments as of ``second_step``."""
    seen = _two_steps(every, trial, UNVARIED)

    def begin_there(model: nn.Module) -> None:
        model.load_state_dict(seen.state)
        vary.apply(model)

    gradients = observe(trial, _batches_of_two_steps(every, trial)[every:], vary=Variation(begin_there, vary.seed)).gradients
    return {name: gradients[name] for name in seen.gradients[-1]}


def is_first_gradient_left(trial: Trial, every: int) -> bool:
    """Whether what the second step has too much is the gradient of the first, or a share of it where a scaler divides both."""
    seen = _two_steps(every, trial, UNVARIED)
    repeated = second_step_repeated(every, trial)
    names = [name for name in repeated if name in seen.gradients[0]]
    first = _flat(seen.gradients[0], names)
    rest = _flat(seen.gradients[-1], names) - _flat(repeated, names)
    return float(first @ rest) >= _PARALLEL * float(first.norm() * rest.norm()) > 0


def _flat(gradients: Quantities, names: list[str]) -> Tensor:
    return torch.cat([gradients[name].flatten().double() for name in names])


def _two_steps(every: int, trial: Trial, vary: Variation) -> _TwoSteps:
    seen = _TwoSteps()

    def set_up(model: nn.Module) -> None:
        vary.apply(model)
        disable_stochastic_layers(model)
        seen.watch(model)

    trial.train(
        _batches_of_two_steps(every, trial),
        TrialOptions(limit=2, seed=vary.seed, clip=False),
        prepare=set_up,
        on_gradients=seen.look,
    )
    return seen


def _batches_of_two_steps(every: int, trial: Trial) -> list[Batch]:
    """The batches of two steps."""
    typical = trial.subject.typical
    whole = fully_labelled(trial.subject, replace(typical, batch=2 * _ROWS_PER_BATCH * every))
    return parts_of(trial, 2 * every, whole)


def parts_of(trial: Trial, every: int, whole: Batch) -> list[Batch]:
    """The rows of a batch, shared among several."""
    signature = trial.subject.task.signature
    size = signature.row_count(whole) // every
    return [signature.rows(whole, slice(size * number, size * (number + 1))) for number in range(every)]


def is_summed(trial: Trial, every: int, batch: Batch) -> bool:
    """Whether a step over several batches adds their gradients up, where those of one batch are of the mean loss by name.

    Args:
        trial: The model, whose training step accumulates by itself.
        every: Batches a step.
        batch: Given as often.
    """
    signature = trial.subject.task.signature
    if len(signature.taught) != 1 or ":" in signature.taught[0].loss:
        return False
    output, seen = signature.taught[0], observe(trial, [batch])
    value, slope = seen.values.get(output.name), seen.slopes.get(output.name)
    if value is None or slope is None or not bool(slope.any()):
        return False
    share = share_of(signature, output, value, slope, batch)
    return share is not None and abs(share / output.weight / every - 1) <= _SAME


def left_over_from_epoch(trial: Trial, every: int, batch: Batch) -> float:
    """How many times as large as the first one the gradient of any later step is, where an epoch ends between two steps; 1 where none is larger.

    All batches are the same one, and no step goes anywhere.

    Args:
        trial: The model, whose training step accumulates by itself.
        every: Batches a step.
        batch: The batch.
    """
    seen: list[Quantities] = []
    still = RateScale(0.0)

    def look(model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        seen.append(gradients_of(model))
        still(model, optimizers)

    options = TrialOptions(epochs=2, clip=False)
    trial.train([batch] * (every + 1), options, prepare=disable_stochastic_layers, on_gradients=look)
    factors = [1.0]
    for gradients in seen[1:]:
        names = list(gradients)
        first, later = _flat(seen[0], names), _flat(gradients, names)
        if float(first @ later) >= _PARALLEL * float(first.norm() * later.norm()) > 0:
            factors.append(float(later.norm() / first.norm()))
    return max(factors) if max(factors) > 1 + _SAME else 1.0


_BATCHES_OF_SEVERAL = 4
"""Batches, or as many times those that make a step, in which several optimizers show what one leaves to the other."""


@dataclass(frozen=True)
class LeftOver:
    """Steps that were taken with a gradient that was used already, beside that of a later backward pass.

    Attributes:
        names: The parameters that took them.
        by_another: Whether the gradient was used by a step of another optimizer.
    """

    names: tuple[str, ...]
    by_another: bool


@dataclass
class _Ledger:
    """Which backward passes the gradient of each parameter is the sum of, while several optimizers take their steps.

    Attributes:
        parameters: Of the model, by name.
        passes: Of each parameter, by id, when the backward passes were that its gradient holds.
        used: Of each backward pass, when a step of which optimizer was taken with it.
        found: Parameters that took a step with a gradient used before by the same optimizer, or by another, and with a later one.
        now: Counts passes and steps.
    """

    parameters: dict[str, nn.Parameter] = field(default_factory=dict)
    passes: dict[int, list[int]] = field(default_factory=dict)
    used: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    found: dict[bool, list[str]] = field(default_factory=lambda: {False: [], True: []})
    now: int = 0

    def start(self, model: nn.Module) -> None:
        """The model before it is trained."""
        self.parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}

    def listening(self, backward: Callable[..., Any]) -> Callable[..., Any]:
        """A backward pass that is noted."""

        @wraps(backward)
        def note(*args: Any, **more: Any) -> Any:
            before = {}
            for parameter in self.parameters.values():
                self._passes_of(parameter)
                before[id(parameter)] = None if parameter.grad is None else parameter.grad.detach().clone()
            result = backward(*args, **more)
            self.now += 1
            for parameter in self.parameters.values():
                earlier = before[id(parameter)]
                if parameter.grad is not None and (earlier is None or not torch.equal(earlier, parameter.grad)):
                    self.passes[id(parameter)].append(self.now)
            return result

        return note

    def stepped(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        """An optimizer has taken a step."""
        self.now += 1
        held = {id(tensor) for tensor in tensors_of(optimizer)}
        own = {name: self._passes_of(parameter) for name, parameter in self.parameters.items() if id(parameter) in held}
        for name, passes in own.items():
            for other, when in (step for each in passes for step in self.used.get(each, ())):
                found = self.found[other != id(optimizer)]
                if passes[-1] > when and name not in found:
                    found.append(name)
        for each in {each for passes in own.values() for each in passes}:
            self.used.setdefault(each, []).append((id(optimizer), self.now))

    def _passes_of(self, parameter: nn.Parameter) -> list[int]:
        """The backward passes that the gradient of a parameter holds now; none where it was cleared."""
        if parameter.grad is None or not bool(parameter.grad.any()):
            self.passes[id(parameter)] = []
        return self.passes.setdefault(id(parameter), [])


def left_over_from_optimizer(trial: Trial, batch: Batch) -> LeftOver | None:
    """What steps of several optimizers were taken with that steps before them had used; ``None`` where they clear what they should.

    A backward pass adds to the gradients of everything that it reaches. So the loss of a generator leaves a gradient in its critic.

    Args:
        trial: The model.
        batch: What it learns from, again and again.
    """
    ledger = _Ledger()
    hook = register_optimizer_step_post_hook(ledger.stepped)
    try:
        with patch.object(Tensor, "backward", ledger.listening(Tensor.backward)):
            trial.train([batch] * _BATCHES_OF_SEVERAL * max(1, trial.batches_per_step), prepare=ledger.start)
    finally:
        hook.remove()
    return next((LeftOver(tuple(names), by_another) for by_another, names in ledger.found.items() if names), None)


def with_its_copies(trial: Trial, batches: Sequence[Batch]) -> Trial | None:
    """The trial as its training step leaves the weights before its first update, as that of a DQN sets a target network; or ``None``.

    Args:
        trial: The training.
        batches: Those of an accumulated step.
    """
    model, seen = trial.new_model(), list[dict[str, Tensor]]()
    before, options = weights_of(model.train()), TrialOptions(limit=1, accumulate=len(batches))
    trial.train(batches, options, model=model, on_gradients=lambda trained, _: seen.append(weights_of(trained)))
    written = [name for name, _ in model.named_parameters() if seen and not same_bits(before[name], seen[0][name])]
    synced = trial.new_model()
    for name in written:
        synced.get_parameter(name).data.copy_(seen[0][name])
    return trial.with_model(synced) if written else None
