"""Tensors and other values that should be equal to the bit: where they differ, and short hashes of them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.compat import HOOKS_OF_MODULE, NAMES_OF_LIGHTNING_MODULE, buffers_of, saved_names
from harness.properties.noise import FACTOR, difference

_DEEPEST = 5


@dataclass(frozen=True)
class Mismatch:
    """What is not equal.

    Attributes:
        name: The first tensor that differs.
        last: The last one.
        size: The largest difference of any, in absolute terms; infinite where one is missing or has another shape.
        scale: The largest value of any tensor that was compared.
        epsilon: Machine epsilon of the tensor that is named.
        count: How many tensors differ.
    """

    name: str
    last: str
    size: float
    scale: float
    epsilon: float
    count: int = 1

    @property
    def is_rounding(self) -> bool:
        """Whether it is no more than a few units in the last place of the largest value."""
        return self.size <= self.bound

    @property
    def bound(self) -> float:
        """Largest difference that may be rounding."""
        return FACTOR * self.epsilon * self.scale


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors are equal to the bit; NaN equals NaN."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    return torch.equal(left, right) or (
        left.is_floating_point()
        and torch.equal(left.isnan(), right.isnan())
        and torch.equal(left.nan_to_num(), right.nan_to_num())
    )


def find_mismatch(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> Mismatch | None:
    """The difference of two sets of tensors on one device; ``None`` where every bit is equal."""
    both = {name: (left.get(name), right.get(name)) for name in (*left, *(name for name in right if name not in left))}
    sizes = {name: _size(*pair) for name, pair in both.items() if not _same(*pair)}
    if not sizes:
        return None
    first, *_, last = (*sizes, *sizes)
    scale = max(
        (float(tensor.abs().max()) for tensor in left.values() if tensor.is_floating_point() and tensor.numel()), default=0.0
    )
    return Mismatch(first, last, max(sizes.values()), scale, _epsilon(left.get(first)), len(sizes))


def _same(left: Tensor | None, right: Tensor | None) -> bool:
    return left is not None and right is not None and same_bits(left, right)


def _size(left: Tensor | None, right: Tensor | None) -> float:
    return float("inf") if left is None or right is None else difference(left, right)


def _epsilon(tensor: Tensor | None) -> float:
    return torch.finfo(tensor.dtype).eps if tensor is not None and tensor.is_floating_point() else 0.0


def fingerprint(value: Any) -> str:
    """A hash of a value by its content: tensors and arrays by their bytes, generators by their state, objects by their attributes."""
    digest = blake2b(digest_size=8)
    for part in _parts(value, 0, set()):
        digest.update(part)
    return digest.hexdigest()


def unsaved_attributes(model: nn.Module) -> dict[str, str]:
    """Fingerprints of what the modules hold and the state dict does not: plain attributes and non-persistent buffers, by path."""
    found: dict[str, str] = {}
    foreign = _framework_attributes(model)
    for path, module in model.named_modules():
        saved = saved_names(module)
        for name, value in {**vars(module), **buffers_of(module)}.items():
            if name not in saved and name not in foreign and not name.endswith(HOOKS_OF_MODULE):
                found[f"{path}.{name}".lstrip(".")] = fingerprint(value)
    return found


def _framework_attributes(model: nn.Module) -> set[str]:
    """Names that every module has, and for a LightningModule those of Lightning's own."""
    names = {*vars(nn.Module())}
    for cls in type(model).__mro__:
        if cls.__name__ == "LightningModule":
            bare = cls()
            names |= {*vars(bare), *NAMES_OF_LIGHTNING_MODULE}
    return names


def _parts(value: Any, depth: int, seen: set[int]) -> Iterator[bytes]:
    """The bytes of a value; what lies deeper than a few levels, or was met before, counts by its type alone."""
    yield type(value).__name__.encode()
    if isinstance(value, (str, bytes, int, float, complex, bool, type(None), range, slice, torch.dtype, torch.device)):
        yield repr(value).encode()
    elif isinstance(value, (Tensor, np.ndarray)):
        yield from _array_parts(value)
    elif (state := _generator_state(value)) is not None:
        yield repr(state).encode()
    elif isinstance(value, nn.Module):  # one that is not registered
        yield from _parts(dict(value.state_dict()), depth, seen)
    elif depth < _DEEPEST and id(value) not in seen and not callable(value):
        inside = seen | {id(value)}
        for part in _members(value):
            yield from _parts(part, depth + 1, inside)


def _array_parts(value: Tensor | np.ndarray[Any, Any]) -> Iterator[bytes]:
    yield f"{value.dtype}{tuple(value.shape)}".encode()
    if isinstance(value, Tensor):
        if value.layout is not torch.strided or value.is_meta:
            return
        value = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    yield value.tobytes()


def _generator_state(value: Any) -> Any:
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if isinstance(value, np.random.RandomState):
        return value.get_state(legacy=False)
    if isinstance(value, random.Random):
        return value.getstate()
    return repr(value) if isinstance(value, count) else None


def _members(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [part for item in value.items() for part in item]
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    if isinstance(value, (list, tuple)) or type(value).__name__ == "deque":
        return list(value)
    return [part for item in getattr(value, "__dict__", {}).items() for part in item]
