"""How far two tensors are apart."""

from __future__ import annotations

from torch import Tensor


def difference(left: Tensor, right: Tensor) -> float:
    """Largest absolute difference, in float64; infinite where the shapes differ, nothing is compared, or NaN is met."""
    if left.shape != right.shape or left.numel() == 0:
        return float("inf")
    gap = (left.double() - right.double()).abs().max().item()
    return gap if gap == gap else float("inf")
