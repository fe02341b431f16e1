"""Tensors and arrays that a script makes of plain numbers: made by PyTorch and NumPy themselves, as long as they are small."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.models.followed import UNKNOWN, Outside, UnknownError

ARRAYS = (Tensor, np.ndarray, np.generic, torch.dtype)
"""Types of values that are made here."""

_LARGEST = 1 << 24
"""Elements of an array that is made."""

_MAKERS = frozenset(
    re.findall(
        r"\w+",
        "randn rand randint randperm zeros ones empty full eye arange linspace logspace geomspace tensor Tensor LongTensor FloatTensor "
        "IntTensor BoolTensor DoubleTensor as_tensor from_numpy array asarray normal uniform random random_sample Size",
    )
)
_FUNCTIONS = _MAKERS | frozenset(
    re.findall(
        r"\w+",
        "zeros_like ones_like rand_like randn_like full_like empty_like cat concat concatenate stack hstack vstack sqrt exp log log2 "
        "cumprod cumsum prod sum mean amax amin abs sin cos clip clamp floor ceil round where tril triu outer sigmoid softmax flip "
        "one_hot meshgrid unsqueeze squeeze expand_dims transpose permute swapaxes reshape repeat tile float32 int64",
    )
)
"""Functions of ``torch`` and ``numpy`` that are called: they make new values of their arguments and do nothing else."""

_METHODS = frozenset(
    re.findall(
        r"\w+",
        "long float int bool double half unsqueeze squeeze view reshape permute transpose contiguous repeat expand random_ t type size "
        "new_tensor new_zeros new_ones new_full fill_ flatten tolist item numpy astype sum mean max min numel dim clamp normal_ uniform_ "
        "zero_ copy swapaxes expand_as view_as type_as repeat_interleave __len__ prod cumsum cumprod argmax sigmoid softmax",
    )
)
_SAME = ("cuda", "to", "cpu", "detach", "clone", "requires_grad_", "pin_memory")
"""Methods that change nothing of what a model is given."""

_PLACED = ("device", "requires_grad", "generator", "pin_memory", "out")
_RESIZING = ("repeat", "expand", "tile", "new_zeros", "new_ones", "new_full", "repeat_interleave")


def made_array(name: str, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """What a function of PyTorch or NumPy returns.

    Args:
        name: Its dotted name.
        arguments: By position.
        keywords: By name.

    Raises:
        UnknownError: It is not one that is called, or it makes too much.
    """
    last = name.rpartition(".")[2]
    if last == "Variable" and arguments and isinstance(arguments[0], Tensor):
        return arguments[0]
    if last not in _FUNCTIONS:
        raise UnknownError(name)
    given, named = _values(arguments), dict(zip(keywords, _values(list(keywords.values())), strict=True))
    named = {key: value for key, value in named.items() if key not in _PLACED}
    if last in _MAKERS and last not in ("tensor", "array", "as_tensor", "asarray", "linspace", "logspace", "geomspace"):
        inner = [each for each in (*given, named.get("size"), named.get("shape")) if isinstance(each, (list, tuple))]
        sizes = [size for each in inner for size in each] or given
        _refuse_many(prod(size for size in sizes if type(size) is int and size > 0))
    package, *path = name.split(".")
    function: Any = {"torch": torch, "numpy": np}[package]
    for part in path:
        function = getattr(function, part, None)
    return _tried(name, lambda: function(*given, **named))


def array_attribute(owner: Any, name: str) -> Any:
    """An attribute of an array that says something of it; ``UNKNOWN`` for a method.

    Raises:
        UnknownError: It is something else.
    """
    if name in ("shape", "ndim", "dtype", "T", "size", "device", "data", "real") and not (
        name == "size" and isinstance(owner, Tensor)
    ):
        return Outside("torch.device") if name == "device" else _tried(name, lambda: getattr(owner, name))
    if name in _METHODS or name in _SAME:
        return UNKNOWN
    raise UnknownError(name)


def called_on_array(owner: Any, name: str, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """What a method of an array returns.

    Raises:
        UnknownError: It is not one that is called, or it makes too much.
    """
    if name in _SAME:
        kinds = [each for each in _values(arguments, strict=False) if isinstance(each, torch.dtype)]
        return owner.to(kinds[0]) if kinds and isinstance(owner, Tensor) else owner
    given, named = _values(arguments), dict(zip(keywords, _values(list(keywords.values())), strict=True))
    if name in _RESIZING:
        sizes = [size for each in given for size in (each if isinstance(each, (list, tuple)) else [each])]
        _refuse_many(prod(size for size in sizes if type(size) is int and size > 0) * int(getattr(owner, "nbytes", 1)))
    return _tried(name, lambda: getattr(owner, name)(*given, **named))


def item_of_array(owner: Any, place: Any) -> Any:
    """Part of an array.

    Raises:
        UnknownError: There is none.
    """
    return _tried("an item", lambda: owner[place])


def refuse_large(values: Sequence[Any]) -> None:
    """Refuses an operation of arrays that broadcast to something large.

    Raises:
        UnknownError: They do.
    """
    shapes = {tuple(value.shape) for value in values if isinstance(value, (Tensor, np.ndarray))}
    if len(shapes) > 1:
        _refuse_many(prod(prod(shape) for shape in shapes))


def _values(values: Sequence[Any], strict: bool = True) -> list[Any]:
    """Values as PyTorch takes them: names of its dtypes are the dtypes."""
    found = []
    for value in values:
        top, _, last = value.name.partition(".") if isinstance(value, Outside) else ("", "", "")
        kind = getattr({"torch": torch, "numpy": np}.get(top), last, None) if top else None
        is_kind = isinstance(kind, (torch.dtype, type))
        if value is UNKNOWN or (isinstance(value, Outside) and not is_kind and strict and not value.name.endswith("device")):
            raise UnknownError("an argument")
        found.append(kind if is_kind else value)
    return found


def _refuse_many(count: int) -> None:
    if count > _LARGEST:
        raise UnknownError("a large array")


def _tried(what: str, call: Any) -> Any:
    try:
        return call()
    except Exception as error:  # of a call that PyTorch or NumPy refuses
        raise UnknownError(what) from error
