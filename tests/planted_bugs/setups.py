"""Models with what a tier needs to judge them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from harness.analysis import Study, find_analysis
from harness.catalogue import CATALOGUE, names_of
from harness.evidence import Evidence
from harness.owners import Selection, settled
from harness.tasks import TaskSpec
from harness.training.checks import find_training
from harness.training.trial import Trial
from pytest_modeltiers.live import judge_model

Factory = Callable[[], nn.Module]


class Setup(ABC):
    """A model with what its tier needs to judge it."""

    @property
    @abstractmethod
    def name(self) -> str:
        """For test ids."""

    @abstractmethod
    def judge(self, properties: Collection[str], folder: Path) -> dict[str, Evidence]:
        """What some properties find, by test.

        Args:
            properties: Names of properties of one tier.
            folder: An empty folder for files.
        """


@dataclass(frozen=True)
class Model(Setup):
    """A model on its own, for tier 1.

    Attributes:
        task: What it is for.
        build: Makes it.
    """

    task: TaskSpec
    build: Factory

    @property
    def name(self) -> str:
        return factory_name(self.build)

    def judge(self, properties: Collection[str], folder: Path) -> dict[str, Evidence]:
        return self.judged(properties)

    def judged(self, properties: Collection[str], share: float = 5.0) -> dict[str, Evidence]:
        """The same, with the seconds that one property may draw examples."""
        return judge_model(self.build, self.task, only=properties, share=share)


def factory_name(build: Callable[..., object]) -> str:
    """The name of a function, with its arguments where some are bound."""
    if isinstance(build, partial):
        arguments = [factory_name(value) if callable(value) else str(value) for value in (*build.args, *build.keywords.values())]
        return "-".join([factory_name(build.func), *arguments])
    return getattr(build, "__name__", type(build).__name__).replace("<lambda>", "model")


def tests_of(name: str, task: TaskSpec) -> list[tuple[str, str]]:
    """The tests of a property that apply to a task, each with its case."""
    entry = CATALOGUE[name]
    if not entry.applies_to(task):
        return []
    return [(f"{name}[{case}]", case) for case in entry.cases_for(task)] if entry.cases else [(name, "")]


def verdict_of(name: str, subject: Study | Trial, case: str = "", judged: Collection[str] | None = None) -> Evidence:
    """The verdict of one test of tier 2 or 3.

    Args:
        name: The property.
        subject: The model, as its tier looks at it.
        case: The case, of a property that has them.
        judged: Names of the properties of this run; by default all of the tier.
    """
    found = find_analysis(name, subject, case) if isinstance(subject, Study) else find_training(name, subject, case)
    selection = Selection(names_of(CATALOGUE[name].tier) if judged is None else judged)
    return settled(found, f"{name}[{case}]" if case else name, selection)
