"""The module whose gradient is not that of what it computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from harness.properties.tracing import fields_of, hooked

_STEP = 1e-4
_APART = 1e-3
"""Relative difference of two derivatives that is no rounding, also of a model that goes through float32 somewhere."""


@dataclass
class _Reading:
    """One module call: random projections of what it was given and what it returned, by which their derivatives are compared."""

    module: str
    given: list[Tensor]
    returned: list[Tensor]


def wrong_gradient(model: nn.Module, run: Callable[[Tensor], object]) -> str:
    """Path of the first module with sound derivatives of its inputs and wrong ones of its outputs; empty where none stands out.

    Args:
        model: The model, in float64.
        run: Calls it at an input that depends on a scalar (float64, 0-d), with the graph.
    """
    share = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    readings = _read(model, run, share)
    with torch.no_grad():
        above, below = (_read(model, run, share.detach() + step) for step in (_STEP, -_STEP))
    for reading, high, low in zip(readings, above, below, strict=False):
        if _differ(reading.returned, high.returned, low.returned, share) and not _differ(
            reading.given, high.given, low.given, share
        ):
            return reading.module
    return ""


def _read(model: nn.Module, run: Callable[[Tensor], object], share: Tensor) -> list[_Reading]:
    finished: list[_Reading] = []
    running: list[_Reading] = []

    def enter(path: str, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        running.append(_Reading(path, _projections((args, kwargs)), []))

    def leave(_path: str, output: Any) -> None:
        reading = running.pop()
        reading.returned = _projections(fields_of(output))
        finished.append(reading)

    with hooked(model, enter, leave):
        run(share)
    return finished


def _projections(tree: Any) -> list[Tensor]:
    """Each floating tensor times fixed random numbers; taken at once, as it may be written into later."""
    found = []
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            numbers = torch.randn(leaf.shape, generator=torch.Generator().manual_seed(leaf.numel()), dtype=torch.float64)
            found.append((torch.where(leaf.isfinite(), leaf, 0) * numbers.to(leaf.device)).sum())
    return found


def _differ(readings: list[Tensor], above: list[Tensor], below: list[Tensor], share: Tensor) -> bool:
    return any(_differs(*each, share) for each in zip(readings, above, below, strict=False))


def _differs(reading: Tensor, above: Tensor, below: Tensor, share: Tensor) -> bool:
    (gradient,) = torch.autograd.grad(reading, share, retain_graph=True, allow_unused=True) if reading.requires_grad else (None,)
    claimed = 0.0 if gradient is None else float(gradient)
    measured = float(above - below) / (2 * _STEP)
    rounding = 1e-16 / _STEP * float(reading.detach().abs())
    return abs(claimed - measured) > _APART * max(abs(claimed), abs(measured)) + 100 * rounding
