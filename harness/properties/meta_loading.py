"""A model that is built without data, on PyTorch's ``meta`` device, and then filled from a state dict.

What a state dict holds is filled by it. Buffers that none holds (``persistent=False``), such as rotary frequencies, must be computed once
more, by ``reset_parameters`` of their module, as FSDP calls it, or by a method of the model. A model without such a method was not made to
be built so, which is no fault of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from harness.compat import buffers_of, compiler_left_out, saved_names
from harness.errors import ForwardError, ProbeUnsupportedError, UserError
from harness.evidence import Evidence
from harness.models.copies import objects_reached
from harness.properties.large_tensors import through_a_file
from harness.properties.loading import NAME, judge_loading, load_into, second_instance, tie_again, unless_owned
from harness.properties.noise import quantised_part
from harness.properties.subject import Subject
from harness.user_code import raised

_OF_A_MODULE = (
    "reset_buffers",
    "init_buffers",
    "reset_non_persistent_buffers",
    "init_non_persistent_buffers",
    "rope_init",
    "reset_parameters",
    "init_weights",
)
_OF_THE_MODEL = ("reset_buffers", "init_buffers", "init_weights", "initialize_weights", "reset_parameters")
_BY_MODULE = "_init_weights"
"""The method of a model that initialises the module it is given, as in transformers."""

_SAY_BUFFERS = ("buffer", "rope")
"""Parts of names that say what a method computes; others may mean weights only."""


@contextmanager
def filling_what_is_empty() -> Iterator[None]:
    """A block in which memory that nobody wrote to holds NaN, or the largest number, rather than what was there by chance."""
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("warn")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


def built_on_meta(subject: Subject, seed: int = 0) -> Evidence:
    """Built on ``meta``, emptied onto the device and loaded, a model gives the same logits."""
    if part := quantised_part(subject.model):
        return Evidence.skipped(NAME, f"`{part}` is quantised, and its integers are not built on meta")
    if subject.rebuild is None:
        return Evidence.skipped(NAME, "the model has no factory, so it cannot be built once more")
    if (found := _computed_again(subject)) is not None:
        return unless_owned(subject, "meta", found)

    def load(source: nn.Module, other: nn.Module) -> nn.Module:
        state = through_a_file(source)
        with filling_what_is_empty():
            other.to_empty(device=subject.device).to(subject.device)  # a LightningModule notes its device when `to` is called
        for path, name in unsaved_buffers(other):
            _compute_again(other, path, name)
        load_into(other, state)
        tie_again(other)
        if any(isinstance(value, Tensor) and value.is_meta for value in objects_reached(other)):
            raise ProbeUnsupportedError(
                "built on meta, the model keeps tensors without values that are neither parameters nor buffers"
            )
        return other

    try:
        found = judge_loading(
            subject,
            load,
            "built on meta and loaded, the model gives different logits",
            "a value that __init__ computes from tensors, which have no data on meta",
            "differs_when_built_on_meta",
            seed,
            partial(_on_meta, subject),
        )
    except ForwardError as error:  # where it raises anyway, that is said before
        return Evidence.skipped(NAME, f"the model cannot be built on meta: then forward raises {error}")
    return unless_owned(subject, "meta", found)


def unsaved_buffers(model: nn.Module) -> list[tuple[str, str]]:
    """Paths of modules, and names of their buffers that no state dict holds."""
    return [
        (path, name)
        for path, module in model.named_modules()
        for name, buffer in buffers_of(module).items()
        if buffer is not None and name not in saved_names(module)
    ]


def _on_meta(subject: Subject) -> nn.Module:
    try:
        with compiler_left_out(), torch.device("meta"):
            return second_instance(subject)
    except Exception as error:
        told = str(error) if isinstance(error, UserError) else raised(error)
        raise ProbeUnsupportedError(f"the model cannot be built on meta: {told}") from None


@torch.no_grad()
def _computed_again(subject: Subject) -> Evidence | None:
    """What keeps buffers that no state dict holds from being computed again; ``None`` where all are, or there are none."""
    model, other = subject.fresh(), second_instance(subject)
    drawn = dict(other.named_buffers(remove_duplicate=False))
    known = dict(model.named_buffers(remove_duplicate=False))
    # Of one that is drawn at random, the state dict itself says that it is lost.
    lost = [pair for pair in unsaved_buffers(model) if _equal(known[_name(*pair)], drawn.get(_name(*pair)))]
    values = {pair: known[_name(*pair)].clone() for pair in lost}
    with filling_what_is_empty():
        empty = {pair: torch.empty_like(value) for pair, value in values.items()}
    for path, name in lost:
        model.get_submodule(path).register_buffer(name, empty[path, name].clone(), persistent=False)
    methods = {pair: _compute_again(model, *pair) for pair in lost}
    found = {pair: buffers_of(model.get_submodule(pair[0]))[pair[1]] for pair in lost}
    right = [pair for pair in lost if _equal(values[pair], found[pair])]
    for pair in lost:
        if pair in right:
            continue
        untouched = _equal(empty[pair], found[pair])
        computing = {methods[other][-1].package for other in right}
        # What computes those of one package need not know what another one added, as adapters to a model of theirs.
        is_known = computing & {_package(model), _package(model.get_submodule(pair[0]))}
        means_buffers = is_known or any(part in method.name for method in methods[pair] for part in _SAY_BUFFERS)
        shown = f"`{_name(*pair)}`, which no state dict holds,"
        if untouched and not means_buffers:
            reason = f"{shown} is computed by no method: built on meta it would have no value (a `reset_parameters` of its module is called)"
            return Evidence.skipped(NAME, reason)
        by = f"by {' or '.join(f'`{method.name}`' for method in methods[pair]) or 'any method'}"
        return Evidence.failed(
            NAME,
            f"{shown} {f'is not computed again {by}' if untouched else f'gets another value {by} than in __init__'}",
            module=_name(*pair),
            cause="a buffer with persistent=False that __init__ computes, and the method for models built on meta does not, or does otherwise",
            code="buffer_not_computed_again",
        )
    return None


@dataclass(frozen=True)
class _Method:
    """A method that may compute a module's buffers.

    Attributes:
        name: Its dotted name, from the model on.
        call: A call of it.
    """

    name: str
    call: Callable[[], Any]

    @property
    def package(self) -> str:
        """The top-level package that it is written in."""
        function = self.call.func if isinstance(self.call, partial) else self.call
        return str(getattr(function, "__module__", "")).partition(".")[0]


def _package(module: nn.Module) -> str:
    return type(module).__module__.partition(".")[0]


def _compute_again(model: nn.Module, path: str, name: str) -> list[_Method]:
    """Has a buffer computed by the methods that are there for it, from its own module outwards until one does; returns them."""
    tried = []
    start = buffers_of(model.get_submodule(path))[name]
    before = None if start is None else start.clone()
    for method in _methods(model, path):
        try:
            with torch.no_grad():
                method.call()
        except Exception:  # it is made for other circumstances
            continue
        tried.append(method)
        after = buffers_of(model.get_submodule(path))[name]
        if before is not None and not _equal(before, after):
            break
    return tried


def _methods(model: nn.Module, path: str) -> Iterator[_Method]:
    """Methods that may compute a module's buffers."""
    parts = path.split(".") if path else []
    for length in range(len(parts), 0, -1):
        owner = ".".join(parts[:length])
        for name in _OF_A_MODULE:
            if (call := _without_arguments(model.get_submodule(owner), name)) is not None:
                yield _Method(_name(owner, name), call)
    for name in _OF_THE_MODEL:
        if (call := _without_arguments(model, name)) is not None:
            yield _Method(name, call)
    by_module = getattr(model, _BY_MODULE, None)
    if callable(by_module):
        yield _Method(_BY_MODULE, partial(by_module, model.get_submodule(path)))


def _without_arguments(module: nn.Module, name: str) -> Callable[[], Any] | None:
    """A method that can be called without arguments."""
    method = getattr(module, name, None)
    if not callable(method):
        return None
    try:
        inspect.signature(method).bind()
    except (TypeError, ValueError):
        return None
    return method  # type: ignore[no-any-return]


def _name(path: str, name: str) -> str:
    return f"{path}.{name}".lstrip(".")


def _equal(left: Tensor | None, right: Tensor | None) -> bool:
    """Whether two buffers hold the same, NaN included."""
    if left is None or right is None or left.shape != right.shape:
        return False
    if not left.is_floating_point() and not left.is_complex():
        return torch.equal(left, right.to(left.dtype))
    return torch.allclose(left, right.to(left.dtype), rtol=1e-5, atol=1e-6, equal_nan=True)
