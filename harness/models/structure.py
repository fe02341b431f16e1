"""A model's structure, found before any of its weights is made: it is built on PyTorch's ``meta`` device, which has shapes and no data.

A model that is small beside the memory that is free is simply built. Also in which attributes, that no state dict holds, two instances differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy

from harness.compat import buffers_of, compiler_left_out, saved_names
from harness.errors import FactoryError, UserError
from harness.runtime import free_memory
from harness.user_code import is_users_file
from harness.wording import amount_of_memory
from harness.written_in import file_of_class

if TYPE_CHECKING:
    from harness.models.loading import ModelSource

_TRIED = 4
"""A model is built without further ado up to this part of the memory that is free."""

_SMALL = 1 << 20
_PLAIN = (bool, int, float)


@dataclass(frozen=True)
class Structure:
    """What a model is made of.

    Attributes:
        parameters: Number of parameters; those that are tied count once.
        weights: Their bytes.
        elements: Number of floating ones, parameters and buffers.
        buffers: Bytes of the buffers.
        largest: Bytes of the largest parameter.
        dtypes: Dtypes of the parameters, the commonest first.
        tied: Names of parameters that are one and the same.
        blocks: Modules of one class and the same shapes that stand in a row: class and number, the largest first.
    """

    parameters: int
    weights: int
    elements: int
    buffers: int
    largest: int
    dtypes: tuple[str, ...]
    tied: tuple[tuple[str, ...], ...]
    blocks: tuple[tuple[str, int], ...]

    @property
    def bytes(self) -> int:
        """What the model takes once it is built."""
        return self.weights + self.buffers


def structure_of(model: nn.Module) -> Structure:
    """Reads the structure of a model, which may be on ``meta``."""
    parameters = [parameter for parameter in model.parameters() if not is_lazy(parameter)]
    buffers = [buffer for buffer in model.buffers() if not is_lazy(buffer)]
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    dtypes = Counter[str]()
    for parameter in parameters:
        dtypes[str(parameter.dtype).removeprefix("torch.")] += parameter.numel()
    return Structure(
        parameters=sum(p.numel() for p in parameters),
        weights=sum(p.nbytes for p in parameters),
        elements=sum(t.numel() for t in (*parameters, *buffers) if t.is_floating_point()),
        buffers=sum(b.nbytes for b in buffers),
        largest=max((p.nbytes for p in parameters), default=0),
        dtypes=tuple(name for name, _ in dtypes.most_common()),
        tied=tuple(tuple(group) for group in names.values() if len(group) > 1),
        blocks=tuple(_blocks(model)),
    )


def _blocks(model: nn.Module) -> list[tuple[str, int]]:
    found = [
        (sum(p.numel() for p in list_.parameters() if not is_lazy(p)), type(list_[0]).__name__, len(list_))
        for list_ in model.modules()
        if isinstance(list_, (nn.ModuleList, nn.Sequential)) and len(list_) > 1 and len({_shapes(each) for each in list_}) == 1
    ]
    return [(kind, number) for _, kind, number in sorted(found, reverse=True)]


def _shapes(module: nn.Module) -> tuple[object, ...]:
    return type(module), *((name, tuple(p.shape), p.dtype) for name, p in module.named_parameters() if not is_lazy(p))


def on_meta(source: ModelSource, seed: int = 0) -> nn.Module:
    """The model without data.

    Raises:
        FactoryError: It cannot be built so, as where its code reads a number out of a tensor.
    """
    with compiler_left_out(), torch.device("meta"):
        model = source.build(seed)
    if found := next(
        (name for name, p in model.named_parameters() if not is_lazy(p) and not p.is_meta and p.nbytes > _SMALL), ""
    ):
        raise FactoryError(f"{source.origin} makes `{found}` with data where it is built on meta")
    return model


class StoppedError(BaseException):
    """More weights were made than are simply built."""


@contextmanager
def stopping_at(limit: int) -> Iterator[None]:
    """A block in which no more than so many bytes of parameters are registered on modules.

    Raises:
        StoppedError: There would be more.
    """
    total = 0

    def count(more: int) -> None:
        nonlocal total
        total += more
        if total > limit:
            raise StoppedError

    with watching_weights(count):
        yield


@contextmanager
def watching_weights(read: Callable[[int], None]) -> Iterator[None]:
    """A block in which the bytes of each parameter that is registered on a module are given to a function; those on ``meta`` are none."""
    made: set[int] = set()

    def count(_module: nn.Module, _name: str, parameter: Tensor | None) -> None:
        if parameter is not None and not parameter.is_meta and not is_lazy(parameter) and id(parameter) not in made:
            made.add(id(parameter))
            read(parameter.nbytes)

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def build_if_it_fits(source: ModelSource, seed: int = 0) -> nn.Module:
    """Builds a model; one that the memory that is free cannot hold is refused when a part of its weights is made.

    Raises:
        FactoryError: It does not fit, or it cannot be built.
    """
    free = free_memory(source.device)
    if not free:
        return source.build(seed)
    try:
        with stopping_at(free // _TRIED):
            return source.build(seed)
    except StoppedError:
        pass
    try:
        needed = structure_of(on_meta(source, seed)).bytes
    except UserError:  # how large it is becomes known only by building it
        needed = 0
    if needed > free:
        raise FactoryError(
            f"{source.origin}: the weights take {amount_of_memory(needed)}, and {amount_of_memory(free)} of memory are free on "
            f"{source.device}; nothing was loaded. `modeltiers plan FILE` says what fits; "
            'weights in bfloat16 take half of those in float32, and `"device"` names another device'
        )
    return source.build(seed)


def unsaved(model: nn.Module, other: nn.Module) -> str:
    """Path of a tensor that the state dict leaves out and that differs between two instances; without one, of a number or a switch."""
    pairs = [(path, left, right) for (path, left), (_, right) in zip(model.named_modules(), other.named_modules(), strict=False)]
    for path, left, right in pairs:
        for name in {*vars(left), *buffers_of(left)} - saved_names(left):
            a, b = getattr(left, name, None), getattr(right, name, None)
            if isinstance(a, Tensor) and isinstance(b, Tensor) and _is_another(a, b):
                return f"{path}.{name}".lstrip(".")
    for path, left, right in pairs:
        for name in sorted({*vars(left)} & {*vars(right)} - {"training"}):
            if not name.startswith("_") and type(vars(left)[name]) in _PLAIN and _is_another(vars(left)[name], vars(right)[name]):
                return f"{path}.{name}".lstrip(".")
    return ""


def kept_beside(model: nn.Module, other: nn.Module) -> str:
    """Path of a tensor or number that differs, of an object of the user's that a module keeps and that is no module."""
    for (path, left), (_, right) in zip(model.named_modules(), other.named_modules(), strict=False):
        for name, value in vars(left).items():
            file = file_of_class(type(value))
            if name.startswith("_") or not file or not is_users_file(file):
                continue
            theirs = getattr(vars(right).get(name), "__dict__", {})
            for key, a in getattr(value, "__dict__", {}).items():
                if (isinstance(a, (Tensor, *_PLAIN)) or a is None) and _is_another(a, theirs.get(key)):
                    return f"{path}.{name}.{key}".lstrip(".")
    return ""


def _is_another(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return not (a.shape == b.shape and torch.equal(a, b))
    return type(a) is not type(b) or a != b
