"""Tensors that should be equal to the bit, and where they are not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.properties.difference import difference
from harness.properties.noise import FACTOR


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
