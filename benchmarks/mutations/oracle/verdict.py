"""A mutant beside its sound model: broken, equivalent, or merely another sound model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from ..bases import Base
from ..mutant import Mutant
from . import influence, leaks, learning, life, outputs  # noqa: F401, as they register the promises
from .promise import PROMISES, Violations
from .side import Side, differ

BY_CONSTRUCTION = {"cpu_constant": "device_move", "lambda_attribute": "serialisation"}
"""Operators whose promise is broken as Python and PyTorch define it: a tensor made without `device` stays behind, a lambda does not pickle."""


@dataclass(frozen=True)
class Verdict:
    """What a mutant is.

    Attributes:
        broken: The promises it breaks and its sound model keeps, each with a violation.
        equivalent: Whether nothing that can be observed tells it from its sound model.
    """

    broken: dict[str, str]
    equivalent: bool


def judge(mutant: Mutant) -> Verdict:
    """Looks for every promise in a mutant and in its sound model.

    Args:
        mutant: The mutant.

    Returns:
        What it is; neither broken nor equivalent means another sound model.
    """
    sound, found = violations_of(mutant.base), _violations(Side(mutant, mutant.base.task))
    broken = {name: sorted(found[name] - sound[name])[0] for name in found if found[name] - sound[name]}
    if mutant.operator in BY_CONSTRUCTION:
        broken.setdefault(BY_CONSTRUCTION[mutant.operator], "by construction")
    return Verdict(broken, not broken and _same(Side(mutant.base.factory, mutant.base.task), Side(mutant, mutant.base.task)))


@cache
def violations_of(base: Base) -> dict[str, frozenset[str]]:
    """What looks like a violation in a sound model."""
    return _violations(Side(base.factory, base.task))


def _violations(side: Side) -> dict[str, frozenset[str]]:
    return {name: frozenset(found for look in looks for found in _attempt(look, side)) for name, looks in PROMISES.items()}


def _attempt(look: Violations, side: Side) -> list[str]:
    """What a look finds before the model raises; that it raises is found by the look for that."""
    found = []
    try:
        for violation in look(side):
            found.append(violation)
    except Exception:
        pass
    return found


def _same(left: Side, right: Side) -> bool:
    """Whether logits in both modes, gradients and registered tensors agree."""
    one, two = left.model(), right.model()
    if _registered(one) != _registered(two):
        return False
    for mode in (False, True):
        for rows in (1, 2, 4):
            for length in left.lengths:
                one, two = left.model().train(mode), right.model().train(mode)
                batch = left.batch(max(rows, 1 + mode), length)
                if differ(left.logits(one, batch), right.logits(two, batch)):
                    return False
                if length > 1 or not left.task.is_text:
                    left.train(one, batch)
                    right.train(two, batch)
                    if not all(_same_gradient(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True)):
                        return False
    return True


def _registered(model: nn.Module) -> list[tuple[str, bool]]:
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]
    return [(name, tensor.requires_grad) for name, tensor in tensors]


def _same_gradient(left: torch.Tensor, right: torch.Tensor) -> bool:
    if left.grad is None or right.grad is None:
        return left.grad is right.grad
    return not differ(left.grad, right.grad)
