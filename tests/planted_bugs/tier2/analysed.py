"""A model as tier 2 looks into it."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from harness.adapters import make_adapter
from harness.analysis import Study
from harness.evidence import Evidence
from harness.properties.subject import Subject
from harness.runtime import seeded, threads_for
from harness.tasks import TaskSpec

from ..register import PlantedBug, register
from ..setups import Factory, Setup, factory_name, tests_of, verdict_of


@dataclass(frozen=True)
class Analysed(Setup):
    """A model that is looked into.

    Attributes:
        task: What it is for.
        build: Makes it.
        seconds: What a check may take.
    """

    task: TaskSpec
    build: Factory
    seconds: float = math.inf

    @property
    def name(self) -> str:
        return factory_name(self.build)

    def judge(self, properties: Collection[str], folder: Path) -> dict[str, Evidence]:
        return judge_all(self.study(), properties)

    def study(self) -> Study:
        """The study that the checks read."""
        study = study_of(self.build, self.task)
        study.seconds = self.seconds
        return study


def plant(name: str, task: TaskSpec, buggy: Factory, sound: Factory, test: str, code: str, module: str = "", **more: Any) -> None:
    """Registers a bug of tier 2; see ``PlantedBug`` for the arguments."""
    register(PlantedBug(name, test, Analysed(task, buggy), Analysed(task, sound), code=code, module=module, **more))


def study_of(build: Factory, task: TaskSpec, seed: int = 0) -> Study:
    """A model with the weights of a seed, to be looked into."""

    def seeded_build(weights_seed: int) -> nn.Module:
        with seeded(weights_seed):
            return build().eval()

    pristine = seeded_build(seed)
    return Study(Subject(seeded_build(seed), make_adapter(task), task, pristine=pristine, rebuild=seeded_build))


def judge_all(study: Study, properties: Collection[str]) -> dict[str, Evidence]:
    """What some properties of tier 2 find in a model, by test.

    Args:
        study: The model.
        properties: Names of properties.
    """
    found = {}
    with threads_for(study.subject.model):
        for name in properties:
            for test, case in tests_of(name, study.subject.task):
                found[test] = verdict_of(name, study, case, properties).investigated()
    return found
