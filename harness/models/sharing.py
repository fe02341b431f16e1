"""What a copy of a model still shares with the model it was copied from."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Iterable
from types import CodeType, FrameType, FunctionType, ModuleType

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_LIMIT = 1_000_000
"""Objects that are followed, at most."""

_ENDS = (
    type,
    ModuleType,
    CodeType,
    FrameType,
    logging.Logger,
    str,
    bytes,
    int,
    float,
    complex,
    torch.dtype,
    torch.device,
    type(None),
)


def fault_of_copy(model: nn.Module, copied: nn.Module) -> str:
    """Why a copy does not stand for its model; empty where it does.

    Args:
        model: The model.
        copied: A copy of it.
    """
    return _what_differs(model, copied) or _what_is_shared(model, copied)


def objects_reached(model: nn.Module) -> list[object]:
    """The objects that a model's attributes lead to: through containers, closures, default arguments, bound methods and weak references.

    Globals are not followed: they are nobody's own.
    """
    seen: dict[int, object] = {}
    waiting: list[object] = [model]
    while waiting and len(seen) < _LIMIT:
        value = waiting.pop()
        if id(value) not in seen and not isinstance(value, _ENDS):
            seen[id(value)] = value
            waiting += _referents(value)
    return list(seen.values())


def cell_contents(function: FunctionType) -> list[object]:
    """What the variables of a function's closure hold; those that were never set are left out."""
    found = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:
            continue
    return found


def _referents(value: object) -> Iterable[object]:
    if isinstance(value, FunctionType):
        return [*cell_contents(value), value.__defaults__, value.__kwdefaults__, vars(value)]
    if isinstance(value, weakref.ref):
        return [value()]
    if isinstance(value, nn.Module):
        # What only shows a module may refer to whatever it was made from, as torchao's does.
        return [attribute for name, attribute in vars(value).items() if name != "extra_repr"]
    return [vars(value)] if isinstance(value, Tensor) else gc.get_referents(value)


def _what_is_shared(model: nn.Module, copied: nn.Module) -> str:
    """A module, parameter or buffer of a model that a copy of it leads to."""
    names = {id(module): f"`{path}`" if path else "the whole" for path, module in model.named_modules(remove_duplicate=False)}
    tensors = {name: tensor for name, tensor in _named_tensors(model) if tensor.numel() and not tensor.is_meta}
    memory = {pointer: f"`{name}`" for name, tensor in tensors.items() if (pointer := _memory(tensor))}
    names |= {id(tensor): f"`{name}`" for name, tensor in tensors.items()}
    # The inner parts first: what is said is then the smallest thing that is shared.
    unregistered = {
        id(value): "a parameter that is not registered" for value in objects_reached(model) if isinstance(value, nn.Parameter)
    }
    for value in objects_reached(copied):
        if id(value) in names:
            return f"a deep copy still uses {names[id(value)]} of the model it was copied from"
        if isinstance(value, Tensor) and _memory(value) in memory:
            return f"a deep copy shares the memory of {memory[_memory(value)]} with the model it was copied from"
        if id(value) in unregistered:
            return f"a deep copy still uses {unregistered[id(value)]} of the model it was copied from"
    return ""


def _what_differs(model: nn.Module, copied: nn.Module) -> str:
    """A module or tensor that a copy lacks, or holds with another value."""
    kinds = {path: type(module).__qualname__ for path, module in model.named_modules()}
    others = {path: type(module).__qualname__ for path, module in copied.named_modules()}
    for path in kinds:
        if path not in others:
            return f"a deep copy lacks the module `{path}`"
    tensors = dict(_named_tensors(copied))
    for name, tensor in _named_tensors(model):
        if name not in tensors:
            return f"a deep copy lacks `{name}`"
        if not _equal(tensor, tensors[name]):
            return f"`{name}` has another value in a deep copy"
    return ""


def _named_tensors(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """Parameters and buffers by name; those that a lazy layer makes when it is first called are not there yet."""
    for name, tensor in (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)):
        if not is_lazy(tensor):
            yield name, tensor


def _equal(left: Tensor, right: Tensor) -> bool:
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    if left.is_meta or left.device != right.device:
        return True
    try:
        return torch.equal(left, right) or torch.equal(left.nan_to_num(), right.nan_to_num())
    except (NotImplementedError, RuntimeError):  # kinds of tensors that cannot be compared, such as quantised ones
        return True


def _memory(tensor: Tensor) -> int:
    """Where a tensor's values lie; 0 where that cannot be told."""
    try:
        return 0 if is_lazy(tensor) else tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):
        return 0
