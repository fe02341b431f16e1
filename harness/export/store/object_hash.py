"""What the behaviour of an object depends on: the parts of a value, a tensor, a module or an instance that its hash must include.

Parts are tuples of plain values and of objects that exist already: a container made here would be taken apart in turn, without end.
"""

from __future__ import annotations

import copyreg
import functools
import hashlib
import logging
import threading
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from harness.compat import CONTENTS_OF_GRAPH_MODULE, OpOverload, OpOverloadPacket, type_of_script_object
from harness.export.store.code_parts import Parts, by_name, class_parts, code_parts, function_parts, module_parts
from harness.files import text_hash

_LOCKS = (type(threading.Lock()), type(threading.RLock()))
_NAMED = (
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
    OpOverload,
    OpOverloadPacket,
    range,
    slice,
)
_DESCRIPTORS = (GetSetDescriptorType, MemberDescriptorType, MethodDescriptorType, WrapperDescriptorType, MethodWrapperType)
_WEAK_CONTAINERS = (weakref.WeakKeyDictionary, weakref.WeakValueDictionary, weakref.WeakSet)
_CONTAINERS = (dict, list, tuple, set, frozenset)
_SCALARS = (int, float, complex, str, bytes, bytearray)
_HEAP_TYPE = 1 << 9
_OF_THE_PROCESS = ("_original_object_hash",)
"""Attributes that hold a ``hash()``, which is another in each process: that of transformers' GenerationConfig."""


class OpaqueError(Exception):
    """An object cannot be read, so that nothing says when two are equal."""


def parts_of(value: Any) -> Parts:
    """What an object consists of.

    Raises:
        OpaqueError: It cannot be read.
    """
    if isinstance(value, Tensor):
        return tensor_parts(value)
    if isinstance(value, nn.Module):
        return _module(value)
    if isinstance(value, type):
        return class_parts(value)
    for kinds, read in _READERS:
        if isinstance(value, kinds):
            return read(value)
    return _instance(value)


def tensor_parts(tensor: Tensor) -> Parts:
    """A tensor by its values, dtype, layout in memory and attributes.

    Raises:
        OpaqueError: Its values cannot be read.
    """
    facts = (type(tensor), str(tensor.dtype), tuple(tensor.shape), tensor.requires_grad, pairs(vars(tensor)))
    try:
        return ("tensor", *facts, *_values(tensor.detach()))
    except OpaqueError:
        raise
    except Exception as error:  # kinds of tensors that hold their values where only they know
        raise OpaqueError(str(error)) from error


def _values(tensor: Tensor) -> Parts:
    if type(tensor) not in (Tensor, nn.Parameter):
        if not hasattr(tensor, "__tensor_flatten__"):
            raise OpaqueError(f"a tensor of type {type(tensor).__name__}")
        names, context = tensor.__tensor_flatten__()
        return ("made of", context, tuple((name, getattr(tensor, name)) for name in names))
    if tensor.is_quantized:
        return ("quantised", *_scales(tensor), tensor.int_repr())
    if tensor.layout == torch.sparse_coo:
        whole = tensor.coalesce()
        return ("sparse", whole.indices(), whole.values())
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return ("sparse", tensor.crow_indices(), tensor.col_indices(), tensor.values())
    if tensor.is_meta:
        return ("no values", tensor.stride())
    plain = tensor.resolve_conj().resolve_neg().cpu().contiguous()
    content = plain.flatten().view(torch.uint8).numpy().data if plain.numel() else b""
    return ("values", tensor.stride(), hashlib.sha256(content).hexdigest())


def _scales(tensor: Tensor) -> Parts:
    if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return (str(tensor.qscheme()), tensor.q_scale(), tensor.q_zero_point())
    return (str(tensor.qscheme()), tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points(), tensor.q_per_channel_axis())


def _module(module: nn.Module) -> Parts:
    """A module by its class and everything it keeps.

    Hooks are kept under numbers that count all hooks of a process, so only their order counts. The graph of a traced module is a linked
    list of thousands of nodes, so its code stands for it.
    """
    state: dict[str, Any] = dict(vars(module))
    if isinstance(module, torch.fx.GraphModule):
        state = {**{name: value for name, value in state.items() if name not in CONTENTS_OF_GRAPH_MODULE}, "code": module.code}
    hooks: dict[str, dict[Any, Any]] = {n: value for n, value in state.items() if "hook" in n and isinstance(value, dict)}
    order = {
        key: rank for rank, key in enumerate(sorted({key for found in hooks.values() for key in found if isinstance(key, int)}))
    }
    for name, found in hooks.items():
        state[name] = tuple((order.get(key, key), hook) for key, hook in found.items())
    return ("module", type(module), pairs(state))


def _method(value: MethodType) -> Parts:
    return ("method", value.__func__, value.__self__)


def _builtin(value: Any) -> Parts:
    owner = getattr(value, "__self__", None)
    module = getattr(value, "__module__", None)
    named = ("builtin", module, value.__qualname__)
    known = owner is None or isinstance(owner, (ModuleType, type)) or by_name(module, value.__qualname__) is value
    return named if known else (*named, owner)


def _partial(value: functools.partial[Any]) -> Parts:
    return ("partial", type(value), value.func, value.args, value.keywords, pairs(vars(value)))


def _cached_function(value: Any) -> Parts:
    return ("cached", value.__wrapped__)


def _script_object(value: Any) -> Parts:
    try:
        return ("script object", type_of_script_object(value), value.__getstate__())
    except Exception as error:
        raise OpaqueError(str(error)) from error


_READERS: tuple[tuple[Any, Any], ...] = (
    (FunctionType, function_parts),
    (MethodType, _method),
    (ModuleType, module_parts),
    (_NAMED, lambda value: (type(value).__name__, str(value))),
    (Enum, lambda value: ("member", type(value), value.name, value.value)),
    (_LOCKS, lambda value: ("lock",)),
    (logging.Logger, lambda value: ("logger", value.name)),
    (torch.Generator, lambda value: ("generator", value.get_state(), str(value.device))),
    (weakref.ref, lambda value: ("weak reference", value())),
    # What is known of objects that live elsewhere, such as how each model is called: a memo of them.
    (_WEAK_CONTAINERS, lambda value: ("memo", type(value))),
    (functools.partial, _partial),
    (type(functools.lru_cache(len)), _cached_function),
    ((classmethod, staticmethod), lambda value: (type(value).__name__, value.__func__)),
    (property, lambda value: ("property", type(value), value.fget, value.fset, value.fdel)),
    (MappingProxyType, lambda value: ("mapping", dict(value))),
    (BuiltinFunctionType, _builtin),
    (_DESCRIPTORS, _builtin),
    (torch.ScriptObject, _script_object),
)
"""What is read in its own way, the first that fits."""


def _instance(value: Any) -> Parts:
    """Any other object: its class, what it is as a container or number, its attributes, and what it says of itself to be copied."""
    cls, native = type(value), _native_base(type(value))
    try:
        content = (*_content(value), pairs(_attributes(value)), tuple(_slots(value)))
        if native is object or issubclass(cls, (*_CONTAINERS, *_SCALARS)):
            return ("instance", cls, *content)
        reduced = value.__reduce_ex__(4)
    except Exception as error:  # whatever an object raises that will not be looked at
        raise OpaqueError(str(error)) from error
    if isinstance(reduced, str):
        return ("by name", cls, reduced)
    # Iterators over its items come last: read here, as two of them are never equal.
    items = tuple(tuple(part) if part is not None else None for part in reduced[3:5])
    return ("instance", cls, *content, reduced[:3], items)


def _attributes(value: Any) -> Mapping[str, object]:
    """An object's attributes; of a frozen dataclass without what was worked out from them and is kept."""
    found: Mapping[str, object] = getattr(value, "__dict__", {})
    parameters = getattr(type(value), "__dataclass_params__", None)
    if not getattr(parameters, "frozen", False):
        return found
    kept = functools.cached_property
    return {name: each for name, each in found.items() if not isinstance(getattr(type(value), name, None), kept)}


def _content(value: Any) -> Parts:
    """What a container or a number holds, whatever class it was derived from."""
    if isinstance(value, dict):
        return tuple(dict.items(value))
    if isinstance(value, (list, tuple)):
        return tuple(value)
    if isinstance(value, (set, frozenset)):
        return (frozenset(value),)
    for kind in _SCALARS:
        if isinstance(value, kind):
            return (kind.__repr__(value),)
    return ()


def pairs(attributes: Mapping[str, object]) -> Parts:
    """Attributes by name; their order says nothing."""
    lasting = (pair for pair in attributes.items() if pair[0] not in _OF_THE_PROCESS)
    return tuple(sorted(lasting, key=lambda pair: str(pair[0])))


def _slots(value: Any) -> Iterable[tuple[str, object]]:
    for name in copyreg._slotnames(type(value)):  # type: ignore[attr-defined]
        if hasattr(value, name):
            yield name, getattr(value, name)


def _native_base(cls: type) -> type:
    """The class, of those it is derived from, that was written in C and may hold what no attribute shows; by the rule of ``copyreg``."""
    for base in cls.__mro__:
        made = vars(base).get("__new__")
        if not base.__flags__ & _HEAP_TYPE or (made is not None and isinstance(made, BuiltinFunctionType)):
            return base
    return object


_LIMIT = 300_000
"""Objects that are looked at, at most: some seconds. A larger graph is opaque as a whole."""

_SHOWN = 200
"""Characters of a plain value that are kept as they are; of a longer one, its hash."""

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented))


def never_again() -> str:
    """A token that nothing else has."""
    return uuid.uuid4().hex


class ObjectHash:
    """Hashes objects; what they share is told from what they hold twice.

    Args:
        opaque: A token for what cannot be read; by default another each time, so that no two of them are equal.
    """

    def __init__(self, opaque: Callable[[], str] = never_again) -> None:
        self.seen: list[object] = []
        self._opaque = opaque
        self._numbers: dict[int, int] = {}
        self._waiting: deque[object] = deque()
        self._codes: dict[int, str] = {}

    def of(self, *objects: object) -> str:
        """The hash of objects, in this order."""
        whole = hashlib.sha256()
        for value in objects:
            whole.update(self._token(value).encode())
        while self._waiting:
            if len(self.seen) > _LIMIT:
                whole.update(self._opaque().encode())
                break
            whole.update(self._content(self._waiting.popleft()).encode())
        return whole.hexdigest()

    def _content(self, value: object) -> str:
        """One object, taken apart by one level."""
        try:
            return self._token(parts_of(value))
        except OpaqueError:
            return f"opaque {type(value).__module__}.{type(value).__qualname__} {self._opaque()}"

    def _token(self, value: object) -> str:
        """A plain value, or the number of an object."""
        cls = type(value)
        if cls in _PLAIN:
            shown = repr(value)
            return f"<{cls.__name__} {shown if len(shown) < _SHOWN else text_hash(shown)}>"
        if cls is tuple:
            return f"({','.join(map(self._token, value))})"  # type: ignore[call-overload]
        if cls is frozenset or cls is set:
            return f"{{{','.join(self._sorted(value))}}}"  # type: ignore[arg-type]
        if cls is CodeType:
            return self._code(value)
        return f"#{self._number(value)}"

    def _number(self, value: object) -> int:
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self.seen)
            self.seen.append(value)  # kept, so that its id is given to no other
            self._waiting.append(value)
        return self._numbers[id(value)]

    def _sorted(self, values: set[object] | frozenset[object]) -> list[str]:
        """The elements of a set in an order that does not change with the process."""
        plain = [self._token(value) for value in values if type(value) in _PLAIN]
        others = [value for value in values if type(value) not in _PLAIN]
        keyed = sorted(((ObjectHash(self._opaque).of(value), value) for value in others), key=lambda pair: pair[0])
        return [*sorted(plain), *(f"{key}{self._token(value)}" for key, value in keyed)]

    def _code(self, code: object) -> str:
        """Code by its content: compilers and caches of bytecode share equal constants or not, as they please."""
        if id(code) not in self._codes:
            self.seen.append(code)
            self._codes[id(code)] = text_hash(self._token(code_parts(code)))  # type: ignore[arg-type]
        return self._codes[id(code)]
