"""The gradient at a training's second step, and what it would be had there been no first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from harness.batches import Batch, Sizes, rows
from harness.training.checks.coverage import listed
from harness.training.checks.labels import fully_labelled
from harness.training.checks.noise import Quantities
from harness.training.checks.observation import Prepare, observe
from harness.training.checks.stillness import be_still
from harness.training.trial import Trial, gradients_of

_ROWS = 2
_PARALLEL = 0.99
"""Cosine from which one gradient is a multiple of another."""


@dataclass
class _Diary:
    """What was seen of two steps.

    Attributes:
        gradients: At each step, of the parameters that the optimizer holds: it clears no others.
        state: The model as the batches of the second step find it.
    """

    gradients: list[Quantities] = field(default_factory=list)
    state: dict[str, Tensor] = field(default_factory=dict)

    def watch(self, model: nn.Module) -> None:
        """Waits for the first forward after the first step, whichever module it begins with."""

        def note(*_call: Any) -> None:
            if len(self.gradients) == 1 and not self.state:
                self.state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

        for module in model.modules():
            module.register_forward_pre_hook(note)

    def look(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        """A step is about to be taken."""
        held = {id(tensor) for optimizer in optimizers for tensor in listed(optimizer)}
        names = {name for name, parameter in model.named_parameters() if id(parameter) in held}
        self.gradients.append({name: gradient for name, gradient in gradients_of(model).items() if name in names})


def second_step(every: int, trial: Trial, /, *, prepare: Prepare | None = None, seed: int = 0) -> Quantities:
    """The gradient at the second step.

    Args:
        every: Batches a step.
        trial: The model.
        prepare: Changes the copy first.
        seed: Of what the training draws.
    """
    return _two_steps(every, trial, prepare, seed).gradients[-1]


def second_step_anew(every: int, trial: Trial, /, *, prepare: Prepare | None = None, seed: int = 0) -> Quantities:
    """The gradient of the second step's batches in a model that has the weights of there and no past; arguments as of ``second_step``."""
    diary = _two_steps(every, trial, None, 0)

    def begin_there(model: nn.Module) -> None:
        model.load_state_dict(diary.state)
        if prepare is not None:
            prepare(model)

    gradients = observe(trial, _batches(every, trial)[every:], prepare=begin_there, seed=seed).gradients
    return {name: gradients[name] for name in diary.gradients[-1]}


def is_first_gradient_left(trial: Trial, every: int) -> bool:
    """Whether what the second step has too much is the gradient of the first, or a share of it where a scaler divides both."""
    diary = _two_steps(every, trial, None, 0)
    anew = second_step_anew(every, trial)
    names = [name for name in anew if name in diary.gradients[0]]
    first = _flat(diary.gradients[0], names)
    rest = _flat(diary.gradients[-1], names) - _flat(anew, names)
    return float(first @ rest) >= _PARALLEL * float(first.norm() * rest.norm()) > 0


def _flat(gradients: Quantities, names: list[str]) -> Tensor:
    return torch.cat([gradients[name].flatten().double() for name in names])


def _two_steps(every: int, trial: Trial, prepare: Prepare | None, seed: int) -> _Diary:
    diary = _Diary()

    def set_up(model: nn.Module) -> None:
        if prepare is not None:
            prepare(model)
        be_still(model)
        diary.watch(model)

    trial.train(_batches(every, trial), limit=2, seed=seed, clip=False, prepare=set_up, on_gradients=diary.look)
    return diary


def _batches(every: int, trial: Trial) -> list[Batch]:
    """The batches of two steps."""
    typical = trial.subject.typical
    whole = fully_labelled(trial.subject, Sizes(2 * _ROWS * every, typical.seq, typical.target_seq))
    return [rows(whole, slice(_ROWS * number, _ROWS * (number + 1))) for number in range(2 * every)]
