"""The sound models that are mutated: the corrected twins of the planted bugs, and two real architectures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from architectures import architectures
from torch import nn

from harness.tasks import TaskSpec
from tests.zoo.pairs import all_pairs

_REAL = ("GPT-2", "ResNet")
_LEFT_OUT = ("AdaptedNet", "lightning_classifier")
"""Twins that are other twins with a mode switch or a trainer around them."""


@dataclass(frozen=True, eq=False)
class Base:
    """A sound model.

    Attributes:
        name: Of the class or architecture.
        task: What it is for.
        factory: Makes it.
    """

    name: str
    task: TaskSpec
    factory: Callable[[], nn.Module]


def bases() -> list[Base]:
    """The sound models, in a fixed order."""
    twins = {pair.sound: Base(pair.sound.__name__, pair.task, pair.sound) for pair in all_pairs()}
    real = architectures()
    return [base for base in twins.values() if base.name not in _LEFT_OUT] + [
        Base(name, real[name].task, real[name].factory) for name in _REAL
    ]
