"""What the units of activation functions do, seen where the functions are called: as modules, from ``F`` or as methods of a tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from harness.properties.tracing import hooked

Function = Callable[[Tensor], Tensor]
"""An activation function, element by element."""

SILENT: dict[str, Function] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "gelu": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "elu": F.elu,
    "celu": F.celu,
    "selu": F.selu,
}
"""Functions that are flat where a unit is off, by name."""

SATURATING: dict[str, Function] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "hardtanh": F.hardtanh,
    "hardsigmoid": F.hardsigmoid,
}
"""Functions that are flat at both ends, by name."""

_ONE_SIDED = ("relu",)
"""Functions that are flat on one side of zero and nowhere on the other, so that a unit's side tells whether it is flat."""

_FEATURE_AXIS = {
    "conv1d": 1,
    "conv2d": 1,
    "conv3d": 1,
    "conv_transpose1d": 1,
    "conv_transpose2d": 1,
    "conv_transpose3d": 1,
    "batch_norm": 1,
    "instance_norm": 1,
    "group_norm": 1,
    "linear": -1,
    "layer_norm": -1,
    "rms_norm": -1,
}
"""Axis along which the units lie in what these functions return."""


@dataclass
class Activity:
    """What the units of one call of an activation function did, over all inputs so far.

    Attributes:
        key: Tells the call from the others of a forward.
        function: The function's name.
        module: Path of the module whose forward calls it.
        source: Path of the module whose output it is given; empty where that is not known.
        flat: Whether each unit's slope was zero at every input, bool ``[units]``.
        bent: Whether it never was.
        seen: Inputs and positions a unit was seen at.
    """

    key: tuple[str, str, int]
    function: str
    module: str
    source: str
    flat: Tensor
    bent: Tensor
    seen: int

    @property
    def units(self) -> int:
        """How many units there are."""
        return len(self.flat)

    @property
    def flat_units(self) -> int:
        """How many were flat at every input."""
        return int(self.flat.sum())

    @property
    def one_sided(self) -> int:
        """How many never changed sides; all of them where a function's sides do not tell."""
        return int((self.flat | self.bent).sum()) if self.function in _ONE_SIDED else self.units

    @property
    def blamed(self) -> str:
        """The module to look at: the one whose weights put the units where they are, if it is known."""
        return self.source or self.module

    def to_json(self) -> dict[str, Any]:
        """The figures, JSON-ready."""
        return {
            "module": self.module,
            "function": self.function,
            "units": self.units,
            "flat_units": self.flat_units,
            "inputs": self.seen,
        }


class ActivationWatch(TorchFunctionMode):
    """Follows calls of activation functions.

    Args:
        functions: Those that are of interest, by name.
    """

    def __init__(self, functions: Mapping[str, Function]) -> None:
        super().__init__()
        self._functions = functions
        self._found: dict[tuple[str, str, int], Activity | None] = {}
        self.running: list[str] = []
        self.begin()

    def begin(self) -> None:
        """A forward begins."""
        self._calls: Counter[tuple[str, str]] = Counter()
        self._made: dict[int, tuple[Tensor, str]] = {}
        self._axis = -1

    @property
    def activities(self) -> list[Activity]:
        """What was seen, in the order of the calls; without those whose number of units varies."""
        return [activity for activity in self._found.values() if activity is not None]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Notes what an activation function is given, before a call in place overwrites it."""
        name = getattr(func, "__name__", "").rstrip("_")
        if name in self._functions:
            given = args[0] if args else (kwargs or {}).get("input")
            if isinstance(given, Tensor) and given.is_floating_point() and given.ndim > 1 and given.numel():
                self._note(name, given)
        result = func(*args, **(kwargs or {}))
        if name in _FEATURE_AXIS and isinstance(result, Tensor):
            self._axis = _FEATURE_AXIS[name]
            self._made[id(result)] = (result, self.running[-1] if self.running else "")  # kept, so that its id stays its own
        return result

    def _note(self, name: str, given: Tensor) -> None:
        module = self.running[-1] if self.running else ""
        key = (module, name, self._calls[module, name])
        self._calls[module, name] += 1
        axis = self._axis if given.ndim > 2 else -1
        flat = _is_flat(self._functions[name], given).movedim(axis, -1).flatten(0, -2)
        off, on = flat.all(0), ~flat.any(0)
        if key not in self._found:
            source = self._made.get(id(given), (given, ""))[1]
            self._found[key] = Activity(key, name, module, source, off, on, len(flat))
            return
        before = self._found[key]
        if before is None or before.units != len(off):
            self._found[key] = None
            return
        before.flat, before.bent, before.seen = before.flat & off, before.bent & on, before.seen + len(flat)


@contextmanager
def watching(model: nn.Module, functions: Mapping[str, Function]) -> Iterator[ActivationWatch]:
    """Follows the activation functions that a model's forward calls; call ``begin`` before each forward.

    Args:
        model: The model.
        functions: Those that are of interest, by name.
    """
    watch = ActivationWatch(functions)

    def enter(path: str, *_call: Any) -> None:
        watch.running.append(path)

    def leave(_path: str, _output: Any) -> None:
        watch.running.pop()

    with hooked(model, enter, leave), watch:
        yield watch


def _is_flat(function: Function, given: Tensor) -> Tensor:
    """Where the slope of a function is zero to the last place, bool."""
    at = given.detach().clone().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(function(at).sum(), at)
    return slope.abs() <= torch.finfo(given.dtype).eps
