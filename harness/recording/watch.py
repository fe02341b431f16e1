"""The calls of modules in a run of a user's command: which is the model, what it is given, and when enough was seen."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from harness.compat import COMPILED_MODULE
from harness.recording import Command, EndOfRecording, Recording, SeenModel
from harness.recording.constructions import Constructions, place_of
from harness.recording.losses import Losses, tensors_of
from harness.recording.training import Training
from harness.recording.written import UnwritableError, Writer, by_name
from harness.tasks.finding.returned import outputs_in
from harness.user_code import is_written_here

_MOST_CALLS = 20
"""Calls for each step that is wanted, after which a training that takes no step is stopped."""

_KEPT_CALLS = 4
_RUNS_FORWARD = ("__init__", "forward", "__call__", "_call_impl", "_wrapped_call_impl")
_VAST = 500_000_000
"""Parameters of a model that is not made a second time to compare the two."""


@dataclass
class _Called:
    """A module that was called from outside of any other.

    Attributes:
        module: The module.
        method: The method; empty for ``forward``.
        place: The line of the first call.
        number: How often it was called.
        inputs: The arguments of the first calls.
        shapes: The shapes of their tensors.
    """

    module: nn.Module
    method: str
    place: str
    number: int = 0
    inputs: list[dict[str, Any]] = field(default_factory=list)
    shapes: list[dict[str, list[int]]] = field(default_factory=list)


class Watch:
    """Watches the process that it is made in.

    Args:
        command: What is run, and when it is to be stopped.
        main: The name by which the script is imported, and its file.
        finish: Called once enough was seen, before the user's code is ended.
    """

    def __init__(self, command: Command, main: tuple[str, str], finish: Callable[[], None]) -> None:
        self._command, self._main, self._finish = command, main, finish
        self._made, self._losses, self._training = Constructions(), Losses(), Training()
        self._called: dict[tuple[int, str], _Called] = {}
        self._local = threading.local()
        self._wrapped: set[tuple[type, str]] = set()
        self.is_over = False

    def install(self) -> None:
        """Begins to watch."""
        self._made.install()
        self._losses.install()
        self._training.install(self._after_step)
        watch, call = self, nn.Module.__call__

        @wraps(call)
        def watched(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return watch._call(module, lambda: call(module, *args, **kwargs), args, kwargs)

        nn.Module.__call__ = watched  # type: ignore[method-assign]

    def _call(self, module: nn.Module, call: Callable[[], Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if getattr(self._local, "is_within", False) or not self._made.is_on or not _is_candidate(module):
            return call()
        owner = self._owner(module)
        if owner is not None:
            return call()
        return self._record(module, "", call, args, kwargs)

    def _record(
        self, module: nn.Module, method: str, call: Callable[[], Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        place = place_of(sys._getframe(2))
        seen = self._called.setdefault((id(module), method), _Called(module, method, place))
        self._stop_if_enough(seen)
        seen.number += 1
        arguments = _by_parameter(module, method, args, kwargs)
        if len(seen.inputs) < _KEPT_CALLS and arguments is not None:
            seen.inputs.append({name: _kept(value) for name, value in arguments.items()})
            seen.shapes.append(dict(_shapes(arguments)))
        self._local.is_within = True
        try:
            with self._losses.within():
                returned = call()
        finally:
            self._local.is_within = False
        if self._model() is seen:
            self._training.called(place)
            self._losses.returned(tensors_of(arguments or {}), tensors_of(outputs_in(returned)))
        return returned

    def _owner(self, module: nn.Module) -> nn.Module | None:
        """The model of which the user called a method that calls this module; from then on the calls of that method are seen."""
        frame: FrameType | None = sys._getframe(3)
        found: tuple[nn.Module, FrameType] | None = None
        while frame is not None:
            code = frame.f_code
            if code.co_argcount and code.co_name not in _RUNS_FORWARD and is_written_here(code.co_filename):
                owner = frame.f_locals.get(code.co_varnames[0])
                if (
                    isinstance(owner, nn.Module)
                    and owner is not module
                    and not hasattr(owner, "training_step")
                    and inspect.isfunction(getattr(type(owner), code.co_name, None))
                    and any(each is module for each in owner.modules())
                ):
                    found = (owner, frame)
            frame = frame.f_back
        if found is None:
            return None
        owner, frame = found
        self._watch_method(type(owner), frame.f_code.co_name)
        key = (id(owner), frame.f_code.co_name)
        if key not in self._called:  # its first call has begun already
            names = frame.f_code.co_varnames[1 : frame.f_code.co_argcount + frame.f_code.co_kwonlyargcount]
            arguments = {name: frame.f_locals[name] for name in names if name in frame.f_locals}
            self._called[key] = seen = _Called(owner, frame.f_code.co_name, place_of(frame.f_back), 1)
            seen.inputs.append({name: _kept(value) for name, value in arguments.items()})
            seen.shapes.append(dict(_shapes(arguments)))
        return owner

    def _watch_method(self, cls: type[nn.Module], name: str) -> None:
        home = next((each for each in cls.__mro__ if name in vars(each)), cls)
        if (home, name) in self._wrapped:
            return
        self._wrapped.add((home, name))
        function, watch = vars(home)[name], self

        @wraps(function)
        def watched(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if getattr(watch._local, "is_within", False) or not watch._made.is_on or not isinstance(module, nn.Module):
                return function(module, *args, **kwargs)
            return watch._record(module, name, lambda: function(module, *args, **kwargs), args, kwargs)

        setattr(home, name, watched)

    def _stop_if_enough(self, seen: _Called) -> None:
        if self.is_over:
            raise EndOfRecording
        most = self._command.steps * (_MOST_CALLS if self._training.has_optimizer else 1)
        if seen.number >= most:
            self._end()

    def _after_step(self) -> None:
        if self._training.steps >= self._command.steps and self._called and self._made.is_on:
            self._end()

    def _end(self) -> None:
        self.is_over = True
        self._finish()
        raise EndOfRecording

    def _model(self) -> _Called | None:
        """The model: the largest of those that are trained, or else of those that are called; no plain layer where there are others."""
        seen = list(self._called.values())
        if self._command.model:
            seen = [each for each in seen if type(each.module).__name__ == self._command.model]

        def rank(each: _Called) -> tuple[bool, bool, int]:
            is_own = not type(each.module).__module__.startswith("torch.nn.")
            return self._training.trains(each.module), is_own, sum(parameter.numel() for parameter in each.module.parameters())

        return max(seen, key=rank, default=None)

    def recording(self, ended: str) -> tuple[Recording, list[dict[str, Any]], dict[str, Tensor], dict[str, Tensor] | None]:
        """What was seen until now, and the tensors of it: inputs of calls, those of the model's arguments, and the weights.

        Args:
            ended: What ended the run.
        """
        self._made.is_on = False
        seen = self._model()
        others = {
            f"{type(each.module).__name__}{f'.{each.method}' if each.method else ''}": each.place
            for each in self._called.values()
        }
        if seen is None:
            return Recording(ended, None, others), [], {}, None
        model, tensors = self._written(seen)
        others.pop(f"{model.name}{f'.{model.method}' if model.method else ''}", None)
        training = self._training.found(seen.module, self._losses.backwards)
        state = seen.module.state_dict() if self._command.weights else None
        weights = None if state is None else {name: value for name, value in state.items() if isinstance(value, Tensor)}
        losses = self._losses
        return Recording(ended, model, others, seen.shapes, losses.found, losses.total, training), seen.inputs, tensors, weights

    def _written(self, seen: _Called) -> tuple[SeenModel, dict[str, Tensor]]:
        module, cls, writer = seen.module, type(seen.module), Writer(self._made, self._main)
        name, made = cls.__qualname__, self._made.of(seen.module)
        home = (
            self._main
            if cls.__module__ == "__main__"
            else (cls.__module__, getattr(sys.modules.get(cls.__module__), "__file__", "") or "")
        )
        shapes = {key: list(value.shape) for key, value in module.state_dict().items() if isinstance(value, Tensor)}
        model = SeenModel(name, *home, made.place if made else "", seen.place, method=seen.method, shapes=shapes)
        try:
            text = writer.module(module, "")  # its arguments are named without a prefix
            edits = self._edits(module, writer)
        except UnwritableError as error:
            return dataclasses.replace(model, refused=str(error)), {}
        assert made is not None
        kwargs = by_name(cls, made.args, made.kwargs)
        return dataclasses.replace(
            model,
            kwargs=kwargs if kwargs is not None and not edits and _is_literal(kwargs) else None,
            expression=text,
            imports=writer.imports,
            folders=tuple(writer.folders),
            edits=edits,
        ), writer.tensors

    def _edits(self, module: nn.Module, writer: Writer) -> dict[str, str]:
        """What the script put into a model after it was made, found by making it again."""
        made = self._made.of(module)
        if made is None or sum(parameter.numel() for parameter in module.parameters()) > _VAST:
            return {}
        try:
            plain = type(module)(*made.args, **made.kwargs)
        except (Exception, SystemExit) as error:
            raise UnwritableError(
                f"{type(module).__name__} cannot be made a second time: {type(error).__name__}: {error}"
            ) from error
        before = dict(plain.named_modules())
        edits: dict[str, str] = {}
        for name, inner in module.named_modules():
            if name and not any(name.startswith(f"{edited}.") for edited in edits):
                other = before.get(name)
                if other is not None and type(other) is type(inner) and (_own(other) == _own(inner)):
                    continue
                if other is None and name.rpartition(".")[0] not in before:
                    continue
                edits[name] = writer.module(inner, name)
        return edits


def _own(module: nn.Module) -> list[tuple[str, torch.Size]]:
    """The parameters that a module has itself; those that have no shape yet are passed over."""
    return [(name, each.shape) for name, each in module.named_parameters(recurse=False) if not nn.parameter.is_lazy(each)]


def _is_candidate(module: nn.Module) -> bool:
    """Whether a module may be the model: it has parameters, wraps no other one, and is no training by itself."""
    is_wrapper = isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)) or hasattr(module, COMPILED_MODULE)
    return not is_wrapper and next(module.parameters(), None) is not None


def _by_parameter(module: nn.Module, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    """The arguments of a call by parameter; ``None`` where they do not fit, which the call itself says."""
    try:
        signature = inspect.signature(getattr(module, method or "forward"))
        bound = signature.bind(*args, **kwargs).arguments
    except (TypeError, ValueError):
        return None
    named: dict[str, Any] = {}
    for name, value in bound.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            named |= {f"input{place}": each for place, each in enumerate(value)}
        elif kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        else:
            named[name] = value
    return named


def _kept(value: Any) -> Any:
    """A copy of an argument, on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_kept, value))
    if isinstance(value, (list, tuple)):
        return type(value)(map(_kept, value)) if type(value) in (list, tuple) else [_kept(each) for each in value]
    if isinstance(value, Mapping):
        return {key: _kept(each) for key, each in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(
            value, **{each.name: _kept(getattr(value, each.name)) for each in dataclasses.fields(value) if each.init}
        )
    return value


def _shapes(value: Any, path: str = "") -> Any:
    """The shapes of the tensors in a value, by dotted name."""
    if isinstance(value, Tensor):
        yield path, list(value.shape)
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _shapes(each, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (list, tuple)):
        for place, each in enumerate(value):
            yield from _shapes(each, f"{path}.{place}")


def _is_literal(value: Any) -> bool:
    """Whether a config can hold a value: no ``None`` in it, which TOML has not."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_literal(each) for key, each in value.items())
    if type(value) is list:
        return all(map(_is_literal, value))
    return type(value) in (bool, int, str) or (type(value) is float and value == value and abs(value) != float("inf"))
