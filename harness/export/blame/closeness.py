"""How close values of two recordings are: each one's distance from the nearest value of the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_SAMPLES = 64
_FAR = 0.05
"""Values further apart than this are different ones; how far apart they are is of no interest."""

_INFINITE = 1e30
"""Masks hold the most negative number or minus infinity, and adding to either may or may not change it."""

_OUTLYING = 1e3
_TINY = 1e-30
_VARIED = 0.1


@dataclass
class Gaps:
    """Relative distances from the nearest value on the other side, by index.

    Attributes:
        expected: Those of the reference's values.
        found: Those of the artifact's.
    """

    expected: list[float]
    found: list[float]


@dataclass(frozen=True)
class _Flat:
    values: Tensor
    scale: float
    sample: Tensor

    @classmethod
    def of(cls, tensor: Tensor) -> _Flat:
        flat = _flattened(tensor)
        count = len(flat)
        picked = flat if count <= _SAMPLES else flat[torch.arange(_SAMPLES) * (count - 1) // (_SAMPLES - 1)]
        return cls(flat, _scale(flat), picked)


def relative_gap(expected: Tensor, found: Tensor) -> float:
    """Largest difference of two tensors' elements, each relative to its own size plus what is usual in the tensor; shapes do not matter.

    Infinite where the numbers of elements differ, or NaN or infinity stand on one side alone.
    """
    if expected.numel() != found.numel():
        return float("inf")
    flat = _flattened(expected)
    return float(_gap(flat, _scale(flat), _flattened(found)).max()) if len(flat) else 0.0


def gaps_between(expected: Sequence[Tensor], found: Sequence[Tensor]) -> Gaps:
    """The distance of every tensor from the nearest one on the other side."""
    gaps = Gaps([float("inf")] * len(expected), [float("inf")] * len(found))
    by_size: dict[int, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for side, tensors in enumerate((expected, found)):
        for index, tensor in enumerate(tensors):
            by_size[tensor.numel()][side].append(index)
    for lefts, rights in by_size.values():
        if lefts and rights:
            _compare(expected, found, lefts, rights, gaps)
    return gaps


def is_telling(tensor: Tensor) -> bool:
    """Whether two different computations would hardly give this tensor by chance."""
    if not tensor.is_floating_point():
        return False
    sample = _Flat.of(tensor).sample
    sample = sample[sample.isfinite()]
    # Numbers that are all about the same are close to many others.
    return len(sample.unique()) > 4 and float(sample.std()) > _VARIED * float(sample.square().mean().sqrt())


def _compare(expected: Sequence[Tensor], found: Sequence[Tensor], lefts: list[int], rights: list[int], gaps: Gaps) -> None:
    """Distances among tensors of one size; most pairs are told apart by a few of their elements."""
    others = {index: _Flat.of(found[index]) for index in rights}
    samples = torch.stack([others[index].sample for index in rights])
    for left in lefts:
        flat = _Flat.of(expected[left])
        if not len(flat.values):
            continue
        rough = _gap(flat.sample, flat.scale, samples).amax(1).tolist()
        for least, right in sorted(zip(rough, rights, strict=True)):
            if least >= max(gaps.expected[left], gaps.found[right]):
                continue
            exact = least
            if least <= _FAR and len(flat.values) > _SAMPLES:
                exact = float(_gap(flat.values, flat.scale, others[right].values).max())
            gaps.expected[left] = min(gaps.expected[left], exact)
            gaps.found[right] = min(gaps.found[right], exact)


def _gap(expected: Tensor, scale: float, found: Tensor) -> Tensor:
    same = (expected == found) | (expected.isnan() & found.isnan())
    gap = (found - expected).abs() / (expected.abs() + scale)
    return torch.where(same, 0.0, gap).nan_to_num(nan=float("inf"), posinf=float("inf"))


def _flattened(tensor: Tensor) -> Tensor:
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    flat = tensor.detach().reshape(-1).double()
    return torch.where(flat.abs() > _INFINITE, flat.sign() * float("inf"), flat)


def _scale(flat: Tensor) -> float:
    """The usual size of a tensor's elements; a mask's large numbers beside the scores they were added to do not count."""
    sizes = flat[flat.isfinite() & (flat != 0)].abs()
    if not len(sizes):
        return _TINY
    if len(sizes) > 1 << 12:
        sizes = sizes[:: len(sizes) >> 12]
    usual = sizes[sizes <= _OUTLYING * torch.quantile(sizes, 0.1)]
    return max(float(usual.square().mean().sqrt()), _TINY)
