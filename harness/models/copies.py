"""Copies of a model that share nothing with it: deep copies where those are sound, and otherwise models built again with its state."""

from __future__ import annotations

import copy
import functools
import gc
import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import cached_property
from itertools import chain
from types import CellType, CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from harness.compat import memory_key, shared_until_written
from harness.runtime import give_back_memory, is_large


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
            try:
                return clone(variant)
            except RuntimeError:  # a variant that was called keeps what it computed, which `deepcopy` refuses
                return clone_with_functions(variant)
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
        own[name].data = value_of(value)
        own[name].requires_grad_(value.requires_grad)
    buffers: dict[str, Tensor] = dict(model.named_buffers(remove_duplicate=False))
    for name, buffer in other.named_buffers(remove_duplicate=False):
        buffers[name].data = value_of(buffer)
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
    return _marked(found, model)


def _holds(function: FunctionType) -> bool:
    """Whether a function refers to anything but globals."""
    return bool(function.__closure__ or function.__defaults__ or function.__kwdefaults__ or vars(function))


def _names(model: nn.Module) -> set[str]:
    return {
        name for name, _ in chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    }


def clone(model: nn.Module) -> nn.Module:
    """A deep copy, in half of ``copy.deepcopy``'s time.

    Every module carries a dozen containers for hooks, nearly always empty, and copying those is most of the work. They are copied here,
    and so are large weights, and ``deepcopy`` is told that they were; everything else is its own.
    """
    copied: dict[int, object] = {}
    for parameter in model.parameters():
        if type(parameter) is nn.Parameter and is_large_tensor(parameter):
            # What `Parameter.__deepcopy__` copies of it, and no more.
            copied[id(parameter)] = nn.Parameter(value_of(parameter), parameter.requires_grad)
    for module in model.modules():
        for value in vars(module).values():
            if type(value) in (dict, OrderedDict, set) and not value:
                copied[id(value)] = type(value)()
    return _marked(copy.deepcopy(model, copied), model)


def _marked(copied: nn.Module, model: nn.Module) -> nn.Module:
    """A copy whose parameters have the marks of the model's, such as ``no_decay = True``, by which optimizers group: ``deepcopy`` drops them."""
    for own, other in zip(copied.parameters(), model.parameters(), strict=True):
        vars(own).update({name: mark for name, mark in vars(other).items() if isinstance(mark, (bool, int, float, str))})
    return copied


def value_of(tensor: Tensor) -> Tensor:
    """A tensor's values in memory that is its own, for a large one only once either of the two is written to."""
    return shared_until_written(tensor.detach()) if is_large_tensor(tensor) else tensor.detach().clone()


_LARGE = 1 << 20
"""Bytes from which on memory is shared until it is written to; copying less takes no longer than sharing it."""


def is_large_tensor(tensor: Tensor) -> bool:
    """Whether a tensor is large, as plain numbers in its own memory, which its copies share until they are written to."""
    if is_lazy(tensor) or tensor.is_meta or tensor.layout is not torch.strided or tensor.is_quantized:
        return False
    size = tensor.nbytes
    return type(tensor) in (Tensor, nn.Parameter) and size >= _LARGE and tensor.untyped_storage().nbytes() == size


@torch.no_grad()
def share_again(model: nn.Module, other: nn.Module) -> nn.Module:
    """Has the large parameters of a model share memory with equal ones of another, until either is written to; returns the model.

    Saving and loading make a second set of weights, which is let go here; so is a file that stays mapped as long as one weight is a part of it.
    """
    if not is_large(model):
        return model
    theirs = dict(other.named_parameters())
    for name, own in model.named_parameters():
        same = theirs.get(name)
        is_plain = type(own) is type(same) is nn.Parameter and own.layout is same.layout is torch.strided and own is not same
        # Small ones, too, are given other memory: theirs may keep all of a mapped file. On a GPU they may have to lie side by side.
        if same is None or not is_plain or not (is_large_tensor(own) or own.device.type == "cpu"):
            continue
        facts = [(each.shape, each.stride(), each.dtype, each.device) for each in (own, same)]
        if facts[0] == facts[1] and torch.equal(own, same):
            own.data = value_of(same)
    give_back_memory()
    return model


def clone_with_classes(model: nn.Module) -> nn.Module:
    """A deep copy whose parametrized modules have new classes.

    ``torch.nn.utils.parametrize`` makes a class for each module, which deep copies share: where a parametrization is removed from one of
    them, the weight of all is gone.
    """
    copied = clone(model)
    for module in copied.modules():
        if parametrize.is_parametrized(module):
            made = type(module)
            module.__class__ = type(made.__name__, made.__bases__, dict(vars(made)))
    return copied


def move(model: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> nn.Module:
    """Moves a model in place and returns it.

    A class may define its own ``to``, which takes a device only, or returns nothing: it is called as users call it, and the dtype is
    left to PyTorch's.

    Args:
        model: The model.
        device: Where it goes.
        dtype: What its floating tensors become; ``None`` leaves them as they are.
    """
    model.to(device)
    if dtype is not None:
        nn.Module.to(model, dtype=dtype)
    return model


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
    """Why a copy does not stand for its model; empty where it does."""
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
    """Where a tensor's values lie; 0 where it has none yet."""
    return 0 if is_lazy(tensor) else memory_key(tensor)


class Reuse:
    """Hands out the same model for as long as no call has changed it, and then builds it again.

    Args:
        build: Builds it.
        model: One that was built already.
    """

    def __init__(self, build: Callable[[], nn.Module], model: nn.Module | None = None) -> None:
        self._build = build
        self._keep(model if model is not None else build())

    def __call__(self) -> nn.Module:
        """The model as it was built."""
        if _state(self._model) != self._state:
            self._keep(self._build())
        return self._model

    def _keep(self, model: nn.Module) -> None:
        self._model = model
        self._state = _state(model)


def _state(model: nn.Module) -> object:
    """What a call may change of a model: attributes by identity, tensors by how often they were written to."""
    tensors = [(id(t), t._version) for t in (*model.parameters(), *model.buffers()) if not nn.parameter.is_lazy(t)]
    return tensors, [(type(m), {name: id(value) for name, value in vars(m).items()}) for m in model.modules()]
