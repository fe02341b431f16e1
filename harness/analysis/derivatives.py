"""Derivatives of a model: what autograd says, what finite differences measure, and the module whose gradient is wrong.

Central differences come with a measured error. A model in float64 is followed along lines through its weights, its inputs, and what passes
between its modules.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from harness.analysis import combined, values_of
from harness.batches import Batch
from harness.compat import tree_leaves, tree_map, unwrapped
from harness.properties.calling import mode
from harness.properties.noise import FACTOR
from harness.properties.places import users_line
from harness.properties.subject import Subject
from harness.properties.tracing import fields_of, hooked
from harness.runtime import seeded

_STEP = 1e-6
"""Apart from each other, points between which a smooth function is straight and rounding is not."""

_SMALLEST, _LARGEST = 1e-5, 1e-2
_NEARER = 1 / 8
"""Of the first step size, another at which a disagreement must show too, and be the same: what a kink nearby makes of one, it does not make of
the other."""

_TINY = (1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-12, 1e-13)
"""Steps at which rounding drowns most functions: where it does not, an agreement at one of them is enough."""


@dataclass(frozen=True)
class Derivative:
    """A derivative, as claimed and as measured.

    Attributes:
        claimed: What autograd says.
        measured: What central differences say.
        error: How far these may be off: the change between two step sizes (Richardson), the gap between the derivatives on both sides of a
            kink, and rounding.
        is_flat: Whether the function did not change by more than rounding.
    """

    claimed: float
    measured: float
    error: float
    is_flat: bool

    @property
    def gap(self) -> float:
        """How far the two are apart."""
        return abs(self.claimed - self.measured)

    @property
    def size(self) -> float:
        """The larger of the two."""
        return max(abs(self.claimed), abs(self.measured))

    @property
    def is_wrong(self) -> bool:
        """Whether they are further apart than the error allows."""
        return self.gap > self.error

    @property
    def is_right(self) -> bool:
        """Whether they agree, and would not by chance."""
        return self.is_telling and not self.is_wrong

    @property
    def is_telling(self) -> bool:
        """Whether the error is small enough to see a tenth of the derivative."""
        return FACTOR * self.error < self.size


def derivative_of(function: Callable[[float], float], claimed: float) -> Derivative:
    """Compares a derivative at zero with central differences.

    Args:
        function: From a place on the line to the value there; the same place gives the same value.
        claimed: The derivative at zero according to autograd.
    """
    function = cache(function)
    middle = function(0.0)
    noise = _noise(function, middle)
    typical = max(abs(claimed), abs(function(_STEP) - function(-_STEP)) / (2 * _STEP), sys.float_info.min)
    # Truncation grows with the square of the step and rounding with its inverse, so the best step is the cube root of their ratio.
    step = min(_LARGEST, max(_SMALLEST, (noise / typical) ** (1 / 3)))
    found = _at(function, middle, claimed, noise, step)
    if not found.is_wrong:
        return found
    # Of a function that turns within the step, differences over a far smaller one may still know the derivative.
    absolving = (_at(function, middle, claimed, 0.0, tiny) for tiny in _TINY)
    agreeing = next((derivative for derivative in absolving if derivative.is_right and FACTOR * derivative.gap < found.gap), None)
    if agreeing is not None:
        return agreeing
    nearer = _at(function, middle, claimed, noise, step * _NEARER)
    apart = abs(found.measured - nearer.measured)
    if nearer.is_wrong and apart <= found.error + nearer.error:
        return found
    return replace(nearer, error=max(nearer.error, apart, nearer.gap))  # finite differences do not know either


def _at(function: Callable[[float], float], middle: float, claimed: float, noise: float, step: float) -> Derivative:
    above, below, nearer_above, nearer_below = (function(place) for place in (step, -step, step / 2, -step / 2))
    wide, narrow = (above - below) / (2 * step), (nearer_above - nearer_below) / step
    bend, nearer_bend = (above - 2 * middle + below) / step, (nearer_above - 2 * middle + nearer_below) / (step / 2)
    # Of a smooth function the difference of the two one-sided derivatives halves with the step; what does not is a kink.
    kink = abs(2 * nearer_bend - bend)
    error = FACTOR * (abs(narrow - wide) + kink + 4 * noise / step)
    is_flat = max(abs(value - middle) for value in (above, below, nearer_above, nearer_below)) <= FACTOR * noise
    return Derivative(claimed, narrow + (narrow - wide) / 3, error, is_flat)


def _noise(function: Callable[[float], float], middle: float) -> float:
    """The rounding error of a value, from second differences (Moré and Wild 2011, Estimating Computational Noise)."""
    before, after, later = (function(place * _STEP) for place in (-1, 1, 2))
    seen = max(abs(before - 2 * middle + after), abs(middle - 2 * after + later))
    return max(seen, sys.float_info.epsilon * abs(middle))


@dataclass(frozen=True)
class GradientProbe:
    """One number made of a model's outputs, whose derivatives are compared with finite differences.

    Attributes:
        subject: The model under test.
        model: A copy of it in float64.
        batch: What it is called on.
        train: Whether it is called in train mode; random numbers are the same in every call.
        seed: Of the directions.
        output: The only output that counts; empty for all.
    """

    subject: Subject
    model: nn.Module
    batch: Batch
    train: bool = False
    seed: int = 0
    output: str = ""

    def value(self) -> Tensor:
        """The outputs in a random combination, a scalar in float64.

        For its gradient use ``gradients``: a model that computes part of itself again in the backward pass must still be in its mode there.
        """
        with mode(self.model, self.train), seeded(0):
            values = values_of(self.subject, self.batch, self.model)
        return combined({self.output: values[self.output]} if self.output else values, self.seed)

    def gradients(self, tensors: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        """Gradients of the value; ``None`` where it does not depend on a tensor."""
        with torch.enable_grad(), mode(self.model, self.train):
            return torch.autograd.grad(self.value(), list(tensors), allow_unused=True)

    def along(self, tensors: dict[str, Tensor]) -> Derivative:
        """The derivative when weights or inputs move together, each by a random share of its size.

        Args:
            tensors: The very weights and inputs, which are left as they were.
        """
        # They move while the model is in its mode: one that folds weights into others as the mode changes would fold in moved ones.
        with mode(self.model, self.train):
            return self._along(tensors)

    def _along(self, tensors: dict[str, Tensor]) -> Derivative:
        rng = self._rng()
        steps = {name: _size(tensor) * _normal_like(tensor, rng) for name, tensor in tensors.items()}
        with _asking_for_gradients(tensors):
            gradients = self.gradients(list(tensors.values()))
        pairs = zip(gradients, steps.values(), strict=True)
        claimed = sum(float((gradient * step).sum()) for gradient, step in pairs if gradient is not None)
        origin = {name: tensor.detach().clone() for name, tensor in tensors.items()}

        @torch.no_grad()
        def moved(place: float) -> float:
            for name, tensor in tensors.items():
                tensor.copy_(origin[name] + place * steps[name])
            return float(self.value())

        try:
            return derivative_of(moved, claimed)
        finally:
            with torch.no_grad():
                for name, tensor in tensors.items():
                    tensor.copy_(origin[name])

    def before(self, path: str) -> Derivative:
        """The derivative when what a module is given moves."""
        return self._between(lambda place: _injected(self.model, path, place, self._rng(), is_before=True))

    def after(self, path: str) -> Derivative:
        """The derivative when what a module returns moves."""
        return self._between(lambda place: _injected(self.model, path, place, self._rng(), is_before=False))

    def finished(self) -> list[str]:
        """Paths of the modules, in the order in which their last calls finish."""
        order: dict[str, None] = {}

        def leave(path: str, _output: Any) -> None:
            order.pop(path, None)
            order[path] = None

        with torch.no_grad(), hooked(self.model, lambda *_call: None, leave):
            self.value()
        return list(order)

    def is_repeatable(self) -> bool:
        """Whether two calls give the same."""
        with torch.no_grad():
            return float(self.value()) == float(self.value())

    def _between(self, injected: Callable[[Tensor], AbstractContextManager[object]]) -> Derivative:
        place = torch.zeros((), dtype=torch.float64, requires_grad=True)
        with injected(place):
            (gradient,) = self.gradients([place])

        @torch.no_grad()
        def moved(distance: float) -> float:
            with injected(torch.tensor(distance, dtype=torch.float64)):
                return float(self.value())

        return derivative_of(moved, 0.0 if gradient is None else float(gradient))

    def _rng(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


class PassingDetach(TorchFunctionMode):
    """Lets the gradient pass where forward calls ``detach()``, and notes where that is.

    Attributes:
        places: File and line of the calls, ``model.py:14``, in order and each once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, None] = {}

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Answers a ``detach`` with a view that keeps the graph."""
        if func is not Tensor.detach or not args[0].requires_grad:
            return func(*args, **(kwargs or {}))
        place = users_line(sys._getframe(1))
        if not place:  # a detach of torch's or of ours
            return func(*args)
        self.places[place] = None
        return args[0].view_as(args[0])


@contextmanager
def _injected(model: nn.Module, path: str, place: Tensor, rng: torch.Generator, is_before: bool) -> Iterator[None]:
    """Moves the floating tensors that a module is given, or returns, along a random direction."""
    module = model.get_submodule("" if path == "(model)" else path)

    def move(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        step = _size(value) * _normal_like(value, rng)
        return value + (place.to(value.device) * step).to(value.dtype)

    if is_before:
        handle = module.register_forward_pre_hook(lambda _m, args, kwargs: tree_map(move, (args, kwargs)), with_kwargs=True)
    else:
        handle = module.register_forward_hook(lambda _m, _a, output: tree_map(move, output))
    with handle:
        yield


@contextmanager
def _asking_for_gradients(tensors: dict[str, Tensor]) -> Iterator[None]:
    before = {name: tensor.requires_grad for name, tensor in tensors.items()}
    for tensor in tensors.values():
        tensor.requires_grad_()
    try:
        yield
    finally:
        for name, tensor in tensors.items():
            tensor.requires_grad_(before[name])


def _size(tensor: Tensor) -> float:
    """Root mean square; 1 for what is zero."""
    size = float(tensor.detach().double().square().mean().sqrt()) if tensor.numel() else 1.0
    return size if 0.0 < size < float("inf") else 1.0


def _normal_like(tensor: Tensor, rng: torch.Generator) -> Tensor:
    return torch.randn(tensor.shape, generator=rng, dtype=torch.float64).to(tensor.device, tensor.dtype)


_BLAME_STEP = 1e-4
_APART = 1e-3
"""Relative difference of two derivatives that is no rounding, also of a model that goes through float32 somewhere."""


@dataclass
class _ModuleCall:
    """One module call: random projections of what it was given and what it returned, by which their derivatives are compared."""

    module: str
    given: list[Tensor]
    returned: list[Tensor]


def wrong_gradient(model: nn.Module, run: Callable[[Tensor], object]) -> str:
    """Path of the first module with sound derivatives of its inputs and wrong ones of its outputs; empty where none stands out.

    Args:
        model: The model, in float64.
        run: Calls it at an input that depends on a scalar (float64, 0-d), with the graph.
    """
    share = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    calls = _project(model, run, share)
    with torch.no_grad():
        above, below = (_project(model, run, share.detach() + step) for step in (_BLAME_STEP, -_BLAME_STEP))
    for call, high, low in zip(calls, above, below, strict=False):
        if _differ(call.returned, high.returned, low.returned, share) and not _differ(call.given, high.given, low.given, share):
            return call.module
    return ""


def _project(model: nn.Module, run: Callable[[Tensor], object], share: Tensor) -> list[_ModuleCall]:
    finished: list[_ModuleCall] = []
    running: list[_ModuleCall] = []

    def enter(path: str, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        running.append(_ModuleCall(path, _projections((args, kwargs)), []))

    def leave(_path: str, output: Any) -> None:
        call = running.pop()
        call.returned = _projections(fields_of(output))
        finished.append(call)

    with hooked(model, enter, leave):
        run(share)
    return finished


def _projections(tree: Any) -> list[Tensor]:
    """Each floating tensor times fixed random numbers; taken at once, as it may be written into later."""
    found = []
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            values = unwrapped(leaf)
            # Not drawn by PyTorch, whose random functions raise inside of ``vmap``.
            numbers = torch.from_numpy(np.random.default_rng(values.numel()).standard_normal(tuple(values.shape)))
            found.append((torch.where(values.isfinite(), values, 0) * numbers.to(values.device)).sum())
    return found


def _differ(values: list[Tensor], above: list[Tensor], below: list[Tensor], share: Tensor) -> bool:
    return any(_differs(*each, share) for each in zip(values, above, below, strict=False))


def _differs(value: Tensor, above: Tensor, below: Tensor, share: Tensor) -> bool:
    (gradient,) = torch.autograd.grad(value, share, retain_graph=True, allow_unused=True) if value.requires_grad else (None,)
    claimed = 0.0 if gradient is None else float(gradient)
    measured = float(above - below) / (2 * _BLAME_STEP)
    rounding = 1e-16 / _BLAME_STEP * float(value.detach().abs())
    return abs(claimed - measured) > _APART * max(abs(claimed), abs(measured)) + 100 * rounding
