"""The sound models that are mutated: the corrected twins of the planted bugs, and two real architectures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from architectures import architectures
from torch import nn

from harness.tasks import TaskSpec
from tests.planted_bugs.register import all_bugs
from tests.planted_bugs.setups import Model

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
    sound = [bug.sound for bug in all_bugs(1) if isinstance(bug.sound, Model) and bug.sound.task.declared is None]
    twins = {model.build: Base(model.name, model.task, model.build) for model in sound}
    real = architectures()
    return [base for base in twins.values() if base.name not in _LEFT_OUT] + [
        Base(name, real[name].task, real[name].factory) for name in _REAL
    ]
