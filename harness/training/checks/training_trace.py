"""What a training did, step by step and module by module, so that two trainings can be compared."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from harness.compat import tree_leaves, unwrapped
from harness.properties.tracing import fields_of, hooked
from harness.training.checks.bit_equality import Mismatch, find_mismatch, fingerprint
from harness.training.trial import Training, gradients_of


@dataclass
class TrainingTrace:
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

    def close(self, training: Training) -> TrainingTrace:
        """Takes down what is known at the end."""
        self.losses = training.losses
        self.rates = [step.learning_rate for step in training.steps]
        self.weights = weights_of(training.model)
        return self

    def to(self, device: torch.device) -> TrainingTrace:
        """The trace with its tensors on a device."""

        def moved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device) for name, tensor in tensors.items()}

        return TrainingTrace([moved(gradients) for gradients in self.gradients], self.losses, self.rates, moved(self.weights))


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, saved ones and others."""
    return {name: tensor.detach().clone() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


@dataclass(frozen=True)
class FirstDifference:
    """Where two trainings first differ.

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


def find_first_difference(left: TrainingTrace, right: TrainingTrace) -> FirstDifference | None:
    """The first difference of two trainings; ``None`` where they are equal to the bit."""
    steps, updates = len(left.losses), len(left.gradients)
    each = max(1, updates // max(1, steps))  # several optimizers update several times a step
    for number in range(max(steps, updates)):
        step = min(number // each, steps - 1) if number < updates else number
        difference = _of_numbers(left, right, step)
        if difference is None and number < min(updates, len(right.gradients)):
            mismatch = find_mismatch(left.gradients[number], right.gradients[number])
            difference = None if mismatch is None else FirstDifference("gradient", step + 1, mismatch)
        if difference is not None:
            return difference
    mismatch = find_mismatch(left.weights, right.weights)
    return None if mismatch is None else FirstDifference("weights", steps, mismatch)


def _of_numbers(left: TrainingTrace, right: TrainingTrace, step: int) -> FirstDifference | None:
    for kind, ours, theirs in (("loss", left.losses, right.losses), ("rate", left.rates, right.rates)):
        one, other = ((values[step] if 0 <= step < len(values) else float("inf")) for values in (ours, theirs))
        if one != other and (one == one or other == other):
            epsilon = torch.finfo(torch.float32).eps if kind == "loss" else sys.float_info.epsilon
            return FirstDifference(kind, step + 1, Mismatch(kind, kind, abs(one - other), abs(one), epsilon))
    return None


class FirstGradients:
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


@dataclass(frozen=True)
class ModuleCall:
    """One call of a module.

    Attributes:
        module: Its path, ``(model)`` for the root.
        given: Fingerprint of its arguments.
        returned: Fingerprint of what it returned.
    """

    module: str
    given: str
    returned: str


@contextmanager
def tracing_modules(model: nn.Module) -> Iterator[list[ModuleCall]]:
    """Takes down every call of a module, in the order in which they finish."""
    finished: list[ModuleCall] = []
    running: list[str] = []

    def enter(_path: str, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        running.append(_of_tensors((args, kwargs)))

    def leave(path: str, output: Any) -> None:
        finished.append(ModuleCall(path, running.pop(), _of_tensors(fields_of(output))))

    with hooked(model, enter, leave):
        yield finished


def first_differing_module(left: list[ModuleCall], right: list[ModuleCall]) -> str:
    """Path of the first module that returns something else though it was given the same; empty where there is none."""
    others = dict(_numbered(right))
    fallback = ""
    for key, entry in _numbered(left):
        other = others.get(key)
        if other is None or entry.returned == other.returned:
            continue
        if entry.given == other.given:
            return entry.module
        fallback = fallback or entry.module
    return fallback


def _numbered(entries: list[ModuleCall]) -> Iterator[tuple[tuple[str, int], ModuleCall]]:
    seen: Counter[str] = Counter()
    for entry in entries:
        yield (entry.module, seen[entry.module]), entry
        seen[entry.module] += 1


def _of_tensors(tree: Any) -> str:
    return fingerprint([unwrapped(leaf.detach()) for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)])
