"""The output of a model in float64 along lines through its weights, its inputs, and what passes between its modules."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from harness.analysis.finite_differences import Slope, slope_of
from harness.batches import Batch
from harness.properties.calling import mode
from harness.properties.places import users_line
from harness.properties.subject import Subject
from harness.properties.tracing import hooked
from harness.randomness import seeded


@dataclass(frozen=True)
class GradientProbe:
    """One number made of a model's output, whose slopes are held against finite differences.

    Attributes:
        subject: The model under test.
        model: A copy of it in float64.
        batch: What it is called on.
        train: Whether it is called in train mode; random numbers are the same in every call.
        seed: Of the directions.
    """

    subject: Subject
    model: nn.Module
    batch: Batch
    train: bool = False
    seed: int = 0

    def value(self) -> Tensor:
        """Logits in a random combination, a scalar in float64.

        For its gradient use ``gradients``: a model that computes part of itself again in the backward pass must still be in its mode there.
        """
        with mode(self.model, self.train), seeded(0):
            logits = self.subject.logits_with_grad(self.batch, self.model).double()
        weights = torch.randn(logits.shape, generator=self._rng(), dtype=torch.float64).to(logits.device)
        return (logits * weights).sum() / math.sqrt(logits.numel())

    def gradients(self, tensors: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        """Gradients of the value; ``None`` where it does not depend on a tensor."""
        with torch.enable_grad(), mode(self.model, self.train):
            return torch.autograd.grad(self.value(), list(tensors), allow_unused=True)

    def along(self, tensors: dict[str, Tensor]) -> Slope:
        """The slope when weights or inputs move together, each by a random share of its size.

        Args:
            tensors: The very weights and inputs, which are left as they were.
        """
        # They move while the model is in its mode: one that folds weights into others as the mode changes would fold in moved ones.
        with mode(self.model, self.train):
            return self._along(tensors)

    def _along(self, tensors: dict[str, Tensor]) -> Slope:
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
            return slope_of(moved, claimed)
        finally:
            with torch.no_grad():
                for name, tensor in tensors.items():
                    tensor.copy_(origin[name])

    def before(self, path: str) -> Slope:
        """The slope when what a module is given moves."""
        return self._between(lambda place: _injected(self.model, path, place, self._rng(), is_before=True))

    def after(self, path: str) -> Slope:
        """The slope when what a module returns moves."""
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

    def _between(self, injected: Callable[[Tensor], AbstractContextManager[object]]) -> Slope:
        place = torch.zeros((), dtype=torch.float64, requires_grad=True)
        with injected(place):
            (gradient,) = self.gradients([place])

        @torch.no_grad()
        def moved(distance: float) -> float:
            with injected(torch.tensor(distance, dtype=torch.float64)):
                return float(self.value())

        return slope_of(moved, 0.0 if gradient is None else float(gradient))

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
