"""Copies of a model that share nothing with it: deep copies where those are sound, and otherwise models built anew with its state.

A deep copy is not always a copy. ``copy.deepcopy`` takes functions as they are, so that a lambda kept on the copy goes on using the modules
of the original; it refuses tensors that are the result of a computation, such as the weight that ``weight_norm`` leaves on a layer.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from functools import cached_property
from itertools import chain
from types import CellType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from harness.models.cloning import clone
from harness.models.moving import move
from harness.models.sharing import fault_of_copy, objects_reached


class Copies:
    """Makes copies of a model.

    Args:
        model: The model, which is never changed.
        build: Builds it once more, under the same seed; ``None`` for a model that came without a factory.
    """

    def __init__(self, model: nn.Module, build: Callable[[], nn.Module] | None = None) -> None:
        self.model = model
        self._build = build

    @cached_property
    def fault(self) -> str:
        """Why deep copies of the model do not stand for it; empty where they do. It is found out once."""
        try:
            return fault_of_copy(self.model, clone(self.model))
        except Exception as error:  # of whatever a __deepcopy__ raises
            return f"the model cannot be deep-copied: {type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}"

    def fresh(self) -> nn.Module:
        """A copy of the model."""
        return self.of(self.model)

    def of_variants(self, variant: nn.Module) -> Copies:
        """Copies of a variant of the model, such as one whose running statistics are settled."""
        found = Copies(variant, self._build)
        found.fault = self.fault
        return found

    def of(self, variant: nn.Module) -> nn.Module:
        """A copy of the model with other values of its tensors, such as the model in float64.

        Args:
            variant: The model itself, or a copy of it whose tensors were changed or moved.
        """
        if not self.fault:
            return clone(variant)
        if self._build is not None:
            built = self._build()
            if _names(built) == _names(variant):
                take_state(built, variant)
                return built
        return clone_with_functions(variant)


@torch.no_grad()
def take_state(model: nn.Module, other: nn.Module) -> None:
    """Gives a model the parameters, buffers and modes of another that is built alike, with their dtypes and devices.

    Args:
        model: Changed in place; its parameters stay the objects they are, so that what refers to them still does.
        other: Where the values come from.
    """
    like = next((t for t in chain(other.parameters(), other.buffers()) if t.is_floating_point()), None)
    if like is not None:
        move(model, like.device, like.dtype)
    own, parts = dict(model.named_parameters(remove_duplicate=False)), dict(model.named_modules(remove_duplicate=False))
    for name, value in other.named_parameters(remove_duplicate=False):
        own[name].data = value.detach().clone()
        own[name].requires_grad_(value.requires_grad)
    buffers: dict[str, Tensor] = dict(model.named_buffers(remove_duplicate=False))
    for name, buffer in other.named_buffers(remove_duplicate=False):
        buffers[name].data = buffer.detach().clone()
    for path, module in other.named_modules(remove_duplicate=False):
        if path in parts:
            parts[path].training = module.training


def clone_with_functions(model: nn.Module) -> nn.Module:
    """A deep copy in which the functions that the model keeps are copied too, and results of computations as plain values.

    Raises:
        Exception: Whatever ``copy.deepcopy`` raises of what else cannot be copied.
    """
    reached = objects_reached(model)
    memo: dict[int, Any] = {id(v): v.detach().clone() for v in reached if isinstance(v, Tensor) and not v.is_leaf}
    functions = [value for value in reached if isinstance(value, FunctionType) and _holds(value)]
    for function in functions:
        cells = tuple(CellType() for _ in function.__closure__ or ())
        copied = FunctionType(function.__code__, function.__globals__, function.__name__, None, cells or None)
        memo[id(function)] = functools.update_wrapper(copied, function, updated=())
        vars(copied).clear()  # of __wrapped__
    # `deepcopy` refuses the object that `staticmethod` returns, though it is a function and nothing more.
    static = [value for value in reached if isinstance(value, staticmethod)]
    memo |= {id(value): staticmethod(memo.get(id(value.__func__), value.__func__)) for value in static}
    found = copy.deepcopy(model, memo)
    for function in functions:
        copied = memo[id(function)]
        copied.__defaults__, copied.__kwdefaults__, state = copy.deepcopy(
            (function.__defaults__, function.__kwdefaults__, vars(function)), memo
        )
        vars(copied).update(state)
        for cell, old in zip(copied.__closure__ or (), function.__closure__ or (), strict=True):
            try:
                cell.cell_contents = copy.deepcopy(old.cell_contents, memo)
            except ValueError:  # a variable that was never set
                continue
    return found


def _holds(function: FunctionType) -> bool:
    """Whether a function refers to anything but globals."""
    return bool(function.__closure__ or function.__defaults__ or function.__kwdefaults__ or vars(function))


def _names(model: nn.Module) -> set[str]:
    return {
        name for name, _ in chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    }
