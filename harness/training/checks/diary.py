"""What happened at each update of a training, so that two trainings can be held against each other."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from harness.training.checks.bits import Mismatch, find_mismatch
from harness.training.trial import Training, gradients_of


@dataclass
class Diary:
    """A training, update by update; give it to ``Trial.train`` as ``on_gradients``.

    Attributes:
        gradients: Before each update, by parameter.
        losses: Of each step.
        rates: Of each step.
        weights: Parameters and buffers at the end.
    """

    gradients: list[dict[str, Tensor]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        """Takes the gradients down."""
        self.gradients.append(gradients_of(model))

    def close(self, training: Training) -> Diary:
        """Takes down what is known at the end."""
        self.losses = training.losses
        self.rates = [step.learning_rate for step in training.steps]
        self.weights = weights_of(training.model)
        return self

    def to(self, device: torch.device) -> Diary:
        """The diary with its tensors on a device."""

        def moved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device) for name, tensor in tensors.items()}

        return Diary([moved(gradients) for gradients in self.gradients], self.losses, self.rates, moved(self.weights))


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, saved ones and others."""
    return {name: tensor.detach().clone() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


@dataclass(frozen=True)
class Parting:
    """Where two trainings part.

    Attributes:
        kind: ``loss``, ``rate``, ``gradient`` or ``weights``.
        step: The optimizer step, counted from 1; that of the last one for the weights at the end.
        mismatch: What differs.
    """

    kind: str
    step: int
    mismatch: Mismatch

    def describe(self) -> str:
        """Such as ``the gradient of `head.weight` differs at step 2``."""
        what = {
            "loss": "the loss differs",
            "rate": "the learning rate differs",
            "gradient": f"the gradient of `{self.mismatch.name}` differs",
            "weights": f"`{self.mismatch.name}` differs",
        }[self.kind]
        return f"{what} {'after' if self.kind == 'weights' else 'at'} step {self.step}"


def find_parting(left: Diary, right: Diary) -> Parting | None:
    """The first difference of two trainings; ``None`` where they are equal to the bit."""
    steps, updates = len(left.losses), len(left.gradients)
    each = max(1, updates // max(1, steps))  # several optimizers update several times a step
    for number in range(max(steps, updates)):
        step = min(number // each, steps - 1) if number < updates else number
        parting = _of_numbers(left, right, step)
        if parting is None and number < min(updates, len(right.gradients)):
            mismatch = find_mismatch(left.gradients[number], right.gradients[number])
            parting = None if mismatch is None else Parting("gradient", step + 1, mismatch)
        if parting is not None:
            return parting
    mismatch = find_mismatch(left.weights, right.weights)
    return None if mismatch is None else Parting("weights", steps, mismatch)


def _of_numbers(left: Diary, right: Diary, step: int) -> Parting | None:
    for kind, ours, theirs in (("loss", left.losses, right.losses), ("rate", left.rates, right.rates)):
        one, other = ((values[step] if 0 <= step < len(values) else float("inf")) for values in (ours, theirs))
        if one != other and (one == one or other == other):
            epsilon = torch.finfo(torch.float32).eps if kind == "loss" else sys.float_info.epsilon
            return Parting(kind, step + 1, Mismatch(kind, kind, abs(one - other), abs(one), epsilon))
    return None


class FirstUpdate:
    """The gradients of the first update, of the parameters that it is about; give it to ``Trial.train`` as ``on_gradients``.

    Attributes:
        gradients: By parameter; zeros where there is none.
        without: Trainable parameters that had none.
    """

    def __init__(self) -> None:
        self.gradients: dict[str, Tensor] = {}
        self.without: list[str] = []

    def __call__(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        """Takes the gradients down."""
        if self.gradients:
            return
        own = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
        parameters = {name: p for name, p in model.named_parameters() if id(p) in own}
        self.gradients = {name: gradient for name, gradient in gradients_of(model).items() if name in parameters}
        self.without = [name for name, p in parameters.items() if p.grad is None and p.requires_grad]
