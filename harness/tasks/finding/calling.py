"""A model and one working call of it, repeated with other inputs within a time limit."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from harness.errors import ExampleError
from harness.runtime import Allowance, seeded
from harness.tasks.calls import bind, nested
from harness.tasks.finding.returned import outputs_in, tensors_in
from harness.tasks.signature import Group, Input, Signature
from harness.tasks.values import Normal
from harness.user_code import raised

Tensors = dict[str, Tensor]
"""Inputs by name; a dotted name stands for a nested dict, numbers after a dot for a tuple."""

Place = tuple[str, int]
"""An axis of an input: the input's name and the axis' position."""

_GRACE = 5.0
"""Seconds after the time there is, for what has to be known of a signature."""

_FEW_CALLS, _LONGEST = 15, 30.0
"""Calls for which there is time however slow the model is, up to so many seconds."""

_SMALL = 20_000_000
"""Parameters of a model that is copied for each call, so that no call sees what another left behind."""

_LARGE_EXAMPLE = 1 << 16
"""Elements of an example that is made smaller where the model takes that: some hundred calls follow."""

_NUDGE = 0.05
"""How far weights are moved, in standard deviations of normal numbers."""

_ROWS, _LONG = 3, 64
"""The rows of a large example that are kept, and the size down to which its other axes are cut."""


class Call:
    """A model with its working call.

    Attributes:
        inputs: The tensors of the call.
        outputs: What it returned, by name.
        usual: What it returns for random inputs of the same sizes, once that is known.
        dropped: Arguments that are left out, with the reason.
        groups: Arguments that are objects of a class.
        recorded: The tensors of other calls that are known to work.
        trace: What the call did that tells what its inputs and outputs mean.
        keeps: The place of the rows in an input, and outputs with an axis of as many elements, with the axis: so it is to stay, as a
            ``view(-1, 64)`` takes elements of a longer axis for more rows.
    """

    def __init__(
        self, model: nn.Module, arguments: Mapping[str, Any], seconds: float, recorded: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Calls the model once.

        Raises:
            ExampleError: The arguments are no tensors, or the call raises, or returns no tensor.
        """
        self._cost = 0.0
        self.keeps: tuple[Place, Mapping[str, int]] | None = None
        self.begin(seconds)
        self._model = _copy(model)
        self._is_small = sum(parameter.numel() for parameter in model.parameters()) <= _SMALL
        # A norm over each map keeps statistics for eval mode: in train mode it refuses maps of a single element.
        norms = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
        self._trains_too = self._is_small and any(isinstance(m, norms) and m.track_running_stats for m in model.modules())
        self._name = type(model).__name__
        self.inputs, self.dropped = _tensors(model, arguments)
        self.groups = dict(groups_in(arguments))
        if not self.inputs:
            raise ExampleError(f"the example of {self._name} holds no tensor: expected forward's arguments by name")
        self.recorded = [_tensors(model, each)[0] for each in recorded]
        self.inputs = self._small(self.inputs)
        self.trace = Trace()
        first = Allowance(0)
        try:
            with self.trace:
                returned = self._returned(self.inputs)
            self.outputs = outputs_in(returned)
        except Exception as error:
            shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in self.inputs.items())
            raise ExampleError(f"{self._name} called with the example ({shapes}) raised {raised(error)}") from error
        self.usual = self.outputs
        self.trace.finish(self.outputs)
        self._cost = first.used
        self.begin(seconds)
        if not any(isinstance(value, Tensor) for value in self.outputs.values()):
            raise ExampleError(f"{self._name} returned {_described(returned)} for the example, expected a tensor")

    @property
    def is_over(self) -> bool:
        """Whether the time is used up."""
        return self._allowance.is_over

    def values_of(self, name: str) -> Tensor:
        """All that an input was seen to hold, in one axis."""
        held = [each[name].flatten() for each in self.recorded if name in each]
        return torch.cat(held) if held else self.inputs[name].flatten()

    def sizes_of(self, place: Place) -> list[int]:
        """The sizes that an axis was seen to have."""
        name, axis = place
        return list(dict.fromkeys(each[name].shape[axis] for each in self.recorded if name in each and each[name].ndim > axis))

    def begin(self, seconds: float) -> None:
        """Starts the count again, for what comes next; a slow model gets as long as a few calls take."""
        self._seconds = max(seconds, min(_FEW_CALLS * self._cost, _LONGEST)) if seconds else 0.0
        self._allowance = Allowance(self._seconds)

    @property
    def is_spent(self) -> bool:
        """Whether time is long over, so that nothing is called any more."""
        return self._allowance.used > self._seconds + _GRACE

    @property
    def forward(self) -> Callable[..., Any]:
        """The method that is called."""
        return self._model.forward

    def tried(self, inputs: Tensors, seed: int = 0) -> dict[str, Any] | None:
        """What the model returns for inputs, by name; ``None`` where it raises, returns something else, or time is long over."""
        if self.is_spent:
            return None
        try:
            found = outputs_in(self._returned(inputs, seed))
            if self._trains_too:
                self._returned(inputs, seed, train=True)
        except Exception:  # whatever a model raises of a size that it does not take
            return None
        return found if list(found) == list(self.outputs) and self._keeps_rows(inputs, found) else None

    @contextmanager
    def with_other_weights(self) -> Iterator[None]:
        """A block in which the weights of a small model are a little off, so that no output is the same by how fresh weights begin."""
        kept = self._model
        if self._is_small:
            self._model = _copy(kept)
            with torch.no_grad(), seeded(0):
                for parameter in self._model.parameters():
                    if parameter.is_floating_point():
                        parameter.add_(_NUDGE * torch.randn_like(parameter))
        try:
            yield
        finally:
            self._model = kept

    def is_as_finite(self, found: Mapping[str, Any] | None) -> bool:
        """Whether there are outputs, finite and not empty where the usual ones are; a deviation over a single element, for one, is NaN."""
        return found is not None and all(
            (bool(tensor.isfinite().all()) or not bool(before.isfinite().all())) and bool(tensor.numel() or not before.numel())
            for tensor, before in zip(tensors_in(found), tensors_in(self.usual), strict=False)
        )

    def _keeps_rows(self, inputs: Tensors, found: Mapping[str, Any]) -> bool:
        """Whether the outputs that had as many rows as the inputs have as many again."""
        if self.keeps is None:
            return True
        (name, place), outputs = self.keeps
        rows = inputs[name].shape[place]
        return all(
            value.shape[axis : axis + 1] == (rows,) for key, axis in outputs.items() if isinstance(value := found[key], Tensor)
        )

    def why_not(self, inputs: Tensors) -> str:
        """What the model raises for inputs."""
        try:
            self._returned(inputs)
        except Exception as error:
            return raised(error)
        return "no error"

    def told_of_steps(self, step: int, size: int, inputs: Tensors) -> str:
        """``, in steps of 2 (33 raises RuntimeError at model.py, line 23)``, of inputs of a size between two steps; empty for steps of 1."""
        if step == 1:
            return ""
        kind, mark, _ = (why := self.why_not(inputs)).partition(": ")
        place = re.search(r" \(([^()]+, line \d+)[^()]*\)$", why)
        return f", in steps of {step}" + (f" ({size} raises {kind}{f' at {place[1]}' if place else ''})" if mark else "")

    def _small(self, inputs: Tensors) -> Tensors:
        """The inputs with fewer rows and shorter axes, as far as the model takes that, where they are large."""
        sizes = {size for tensor in inputs.values() for size in tensor.shape}
        first = {tensor.shape[0] for tensor in inputs.values() if tensor.ndim}
        rows = first.pop() if len(first) == 1 else 0
        for old in sorted(sizes, reverse=True):
            if sum(tensor.numel() for tensor in inputs.values()) <= _LARGE_EXAMPLE:
                break
            shorter = [_ROWS] if old == rows else [size for size in (_LONG, old // 16, old // 4, old // 2) if size >= _LONG]
            places = [(name, axis) for name, tensor in inputs.items() for axis, size in enumerate(tensor.shape) if size == old]
            tried = (resized(inputs, places, size) for size in dict.fromkeys(shorter) if size < old)
            inputs = next((smaller for smaller in tried if self._takes(smaller)), inputs)
        return inputs

    def _takes(self, inputs: Tensors) -> bool:
        try:
            found = list(tensors_in(list(outputs_in(self._returned(inputs)).values())))
        except Exception:  # whatever a model raises of a size that it does not take
            return False
        return bool(found) and all(tensor.numel() for tensor in found)

    def _returned(self, inputs: Tensors, seed: int = 0, train: bool = False) -> Any:
        model = _copy(self._model) if self._is_small else self._model
        with seeded(seed), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the model's own code; the suite shows them
            return called(model.train(train), inputs, self.groups)


class Trace(TorchFunctionMode):
    """Notes the tables that are read, and what the functions promise that outputs come from.

    Attributes:
        tables: The indices, rows and padding index of every table that is read.
        promises: By output: ``sigmoid``, ``tanh`` or ``normalize``.
    """

    _TABLES = ("embedding", "embedding_bag")
    _PROMISES = ("sigmoid", "tanh", "normalize")

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[tuple[Tensor, int, int | None]] = []
        self.promises: dict[str, str] = {}
        self._seen: list[tuple[Tensor, str]] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls the function; ``sigmoid`` of a function's name covers methods and modules too."""
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        name = getattr(function, "__name__", "").rstrip("_")
        if name in self._TABLES:
            indices, weight = [*args, *(kwargs.get(key) for key in ("input", "weight")[len(args) :])][:2]
            if isinstance(indices, Tensor) and isinstance(weight, Tensor):
                padding = kwargs.get("padding_idx", args[2] if name == "embedding" and len(args) > 2 else None)
                padding = padding if isinstance(padding, int) and padding >= 0 else None
                self.tables.append((indices.detach().clone(), len(weight), padding))
        elif name in self._PROMISES and isinstance(result, Tensor):
            self._seen.append((result, name))
        return result

    def finish(self, outputs: Mapping[str, Any]) -> None:
        """Finds the outputs that are, or are views of, what a function with a promise returned."""
        made = {tensor.untyped_storage().data_ptr(): name for tensor, name in self._seen}
        for name, value in outputs.items():
            if isinstance(value, Tensor) and (promise := made.get(value.untyped_storage().data_ptr())):
                self.promises[name] = promise
        self._seen.clear()


def resized(inputs: Tensors, places: Collection[Place], size: int) -> Tensors:
    """Inputs with another size at some places: cut, or repeated from the start."""
    changed = dict(inputs)
    for name, axis in places:
        index = torch.arange(size) % inputs[name].shape[axis]
        changed[name] = changed[name].index_select(axis, index.to(changed[name].device))
    return changed


def called(model: nn.Module, inputs: Mapping[str, Tensor], groups: Mapping[str, Group]) -> Any:
    """What forward returns for inputs by name, bound to its parameters as those of a declared task are."""
    names = tuple(dict.fromkeys(name.partition(".")[0] for name in inputs))
    declared = tuple(Input(name, (), Normal(), "float32") for name in inputs)
    positional, named, whole = bind(model, Signature(declared, (), {}))
    arguments = nested(inputs, names, groups)
    if whole:
        return model(arguments)
    return model(*(arguments[name] for name in positional), **{name: arguments[name] for name in named})


def _tensors(model: nn.Module, arguments: Mapping[str, Any]) -> tuple[Tensors, dict[str, str]]:
    """The tensors of a call by dotted name, and the arguments that are left out."""
    parameters = inspect.signature(model.forward).parameters
    found: Tensors = {}
    dropped: dict[str, str] = {}
    for name, value in arguments.items():
        if value is None:
            dropped[name] = "None in the example"
            continue
        parts = dict(flat(name, value))
        if all(isinstance(inner, Tensor) for inner in parts.values()):
            found |= {key: inner.detach().clone() for key, inner in parts.items()}
            continue
        wrong = next(key for key, inner in parts.items() if not isinstance(inner, Tensor))
        kind = type(parts[wrong]).__name__
        if name not in parameters or parameters[name].default is inspect.Parameter.empty:
            raise ExampleError(
                f"`{wrong}` of the example is a {kind}, expected a tensor; give forward's `{name}` a default to leave it out"
            )
        dropped[name] = f"a {kind}, no tensor: forward's default is used"
    return found, dropped


def groups_in(arguments: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Group]]:
    """The arguments, and parts of them, that are dataclasses or named tuples, by dotted name."""
    for name, value in arguments.items():
        parts = _parts(value)
        if parts is None:
            continue
        cls = type(value)
        if dataclasses.is_dataclass(value) or hasattr(value, "_asdict") or cls is SimpleNamespace:
            yield f"{within}{name}", Group(_source_of(cls), partial(_itself, cls))
        yield from groups_in(parts, f"{within}{name}.")


def _itself(cls: type) -> type:
    return cls


def _source_of(cls: type) -> str:
    file = getattr(sys.modules.get(cls.__module__), "__file__", None) if cls is not SimpleNamespace else None
    return f"{file}:{cls.__qualname__}" if file else f"{cls.__module__}:{cls.__qualname__}"


def flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The tensors of an argument by dotted name."""
    parts = _parts(value)
    if parts is None:
        yield name, value
        return
    for key, inner in parts.items():
        if inner is not None:
            yield from flat(f"{name}.{key}", inner)


def _parts(value: Any) -> dict[str, Any] | None:
    """What a dict, a tuple, a named tuple or a dataclass holds, by key or place; ``None`` for anything else."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in dataclasses.fields(value) if each.init}
    if hasattr(value, "_asdict"):
        return dict(value._asdict())
    if type(value) is SimpleNamespace:
        return dict(vars(value))
    if isinstance(value, Mapping):
        return {str(key): inner for key, inner in value.items()}
    if isinstance(value, (tuple, list)) and value and not isinstance(value[0], (int, float)):
        return {str(place): inner for place, inner in enumerate(value)}
    return None


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception:  # a model that refuses copies is called itself
        return model


def _described(returned: Any) -> str:
    return "None" if returned is None else f"a {type(returned).__name__} without tensors"
