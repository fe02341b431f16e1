"""What a training did, step by step and module by module; and where values of two trainings differ that should be equal to the bit."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from harness.compat import HOOKS_OF_MODULE, NAMES_OF_LIGHTNING_MODULE, buffers_of, saved_names, tree_leaves, unwrapped
from harness.properties.large_tensors import largest_absolute
from harness.properties.noise import FACTOR, difference
from harness.properties.tracing import fields_of, hooked, numbered
from harness.training.engines import gradients_of, weights_of
from harness.training.trial import Training


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
        """Takes the gradients of the update down: those that other optimizers' losses leave elsewhere are cleared before they are used."""
        own = _own_parameters(optimizers)
        self.gradients.append(
            {name: gradient for name, gradient in gradients_of(model).items() if id(model.get_parameter(name)) in own}
        )

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


def _own_parameters(optimizers: Sequence[Optimizer]) -> set[int]:
    """Ids of the parameters that optimizers hold."""
    return {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}


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
        own = _own_parameters(optimizers)
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
    others = dict(numbered(right, "module"))
    fallback = ""
    for key, entry in numbered(left, "module"):
        other = others.get(key)
        if other is None or entry.returned == other.returned:
            continue
        if entry.given == other.given:
            return entry.module
        fallback = fallback or entry.module
    return fallback


def _of_tensors(tree: Any) -> str:
    return fingerprint([unwrapped(leaf.detach()) for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)])


_DEEPEST = 5
_ON_THE_WAY = 1e-3
"""How far from the straight way to another tensor rounding may lead."""


@dataclass(frozen=True)
class Mismatch:
    """What is not equal.

    Attributes:
        name: The first tensor that differs.
        last: The last one.
        size: The largest difference of any, in absolute terms; infinite where one is missing or has another shape.
        scale: The largest value of any tensor that was compared.
        epsilon: Machine epsilon of the tensor that is named.
        count: How many tensors differ.
    """

    name: str
    last: str
    size: float
    scale: float
    epsilon: float
    count: int = 1

    @property
    def is_rounding(self) -> bool:
        """Whether it is no more than a few units in the last place of the largest value."""
        return self.size <= self.bound

    @property
    def bound(self) -> float:
        """Largest difference that may be rounding."""
        return FACTOR * self.epsilon * self.scale


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors are equal to the bit; NaN equals NaN."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    return torch.equal(left, right) or (
        left.is_floating_point()
        and torch.equal(left.isnan(), right.isnan())
        and torch.equal(left.nan_to_num(), right.nan_to_num())
    )


def is_between(before: Tensor, after: Tensor, end: Tensor) -> bool:
    """Whether a tensor moved straight on the way to another one, or became that one, as where one network follows another."""
    moved, way = (after - before).double(), (end - before).double()
    part = float((moved * way).sum()) / max(float(way.square().sum()), torch.finfo(torch.float64).tiny)
    return 0 < part < 1 + _ON_THE_WAY and float((moved - part * way).norm()) <= _ON_THE_WAY * float(moved.norm())


def find_mismatch(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> Mismatch | None:
    """The difference of two sets of tensors on one device; ``None`` where every bit is equal."""
    both = {name: (left.get(name), right.get(name)) for name in (*left, *(name for name in right if name not in left))}
    sizes = {name: _size(*pair) for name, pair in both.items() if not _same(*pair)}
    if not sizes:
        return None
    first, *_, last = (*sizes, *sizes)
    scale = max((largest_absolute(tensor) for tensor in left.values() if tensor.is_floating_point()), default=0.0)
    return Mismatch(first, last, max(sizes.values()), scale, _epsilon(left.get(first)), len(sizes))


def _same(left: Tensor | None, right: Tensor | None) -> bool:
    return left is not None and right is not None and same_bits(left, right)


def _size(left: Tensor | None, right: Tensor | None) -> float:
    return float("inf") if left is None or right is None else difference(left, right)


def _epsilon(tensor: Tensor | None) -> float:
    return torch.finfo(tensor.dtype).eps if tensor is not None and tensor.is_floating_point() else 0.0


def fingerprint(value: Any) -> str:
    """A hash of a value by its content: tensors and arrays by their bytes, generators by their state, objects by their attributes."""
    digest = blake2b(digest_size=8)
    for part in _parts(value, 0, set()):
        digest.update(part)
    return digest.hexdigest()


def unsaved_attributes(model: nn.Module) -> dict[str, str]:
    """Fingerprints of what the modules hold and the state dict does not: plain attributes and non-persistent buffers, by path."""
    found: dict[str, str] = {}
    foreign = _framework_attributes(model)
    for path, module in model.named_modules():
        saved = saved_names(module)
        for name, value in {**vars(module), **buffers_of(module)}.items():
            if name not in saved and name not in foreign and not name.endswith(HOOKS_OF_MODULE):
                found[f"{path}.{name}".lstrip(".")] = fingerprint(value)
    return found


def _framework_attributes(model: nn.Module) -> set[str]:
    """Names that every module has, and for a LightningModule those of Lightning's own."""
    names = {*vars(nn.Module())}
    for cls in type(model).__mro__:
        if cls.__name__ == "LightningModule":
            bare = cls()
            names |= {*vars(bare), *NAMES_OF_LIGHTNING_MODULE}
    return names


def _parts(value: Any, depth: int, seen: set[int]) -> Iterator[bytes]:
    """The bytes of a value; what lies deeper than a few levels, or was met before, counts only by its type."""
    yield type(value).__name__.encode()
    if isinstance(value, (str, bytes, int, float, complex, bool, type(None), range, slice, torch.dtype, torch.device)):
        yield repr(value).encode()
    elif isinstance(value, (Tensor, np.ndarray)):
        yield from _array_parts(value)
    elif (state := _generator_state(value)) is not None:
        yield repr(state).encode()
    elif isinstance(value, nn.Module):  # one that is not registered
        yield from _parts(dict(value.state_dict()), depth, seen)
    elif depth < _DEEPEST and id(value) not in seen and not callable(value):
        inside = seen | {id(value)}
        for part in _members(value):
            yield from _parts(part, depth + 1, inside)


def _array_parts(value: Tensor | np.ndarray[Any, Any]) -> Iterator[bytes]:
    yield f"{value.dtype}{tuple(value.shape)}".encode()
    if isinstance(value, Tensor):
        if value.layout is not torch.strided or value.is_meta:
            return
        value = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    yield value.tobytes()


def _generator_state(value: Any) -> Any:
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if isinstance(value, np.random.RandomState):
        return value.get_state(legacy=False)
    if isinstance(value, random.Random):
        return value.getstate()
    return repr(value) if isinstance(value, count) else None


def _members(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [part for item in value.items() for part in item]
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    if isinstance(value, (list, tuple)) or type(value).__name__ == "deque":
        return list(value)
    return [part for item in getattr(value, "__dict__", {}).items() for part in item]
