"""gradcheck leaves sound models alone, kinks and rounding included."""

from __future__ import annotations

import inspect
from functools import partial

import pytest
from planted_bugs.setups import Factory
from planted_bugs.tasks import CAUSAL, IMAGES, TABLE
from planted_bugs.tester import SEEDS, red
from planted_bugs.tier2.analysed import judge_all, study_of
from planted_bugs.tier2.gradients import Norm, Pictures, Renormalised, Sensitive, Table, Upcast, table
from torch import nn

from harness.tasks import TaskSpec

FAMILY = ("gradcheck",)


SOUND: dict[str, tuple[Factory, TaskSpec]] = {
    "kinks": (Pictures, IMAGES),
    "float32 inside": (partial(table, Upcast), TABLE),
    "sensitive": (partial(table, Sensitive), TABLE),
    "max_norm": (Renormalised, CAUSAL),
    "spectral norm": (lambda: Table(nn.utils.parametrizations.spectral_norm(nn.Linear(32, 32))), TABLE),
}


def test_a_detach_is_named_by_its_line() -> None:
    found = judge_all(study_of(partial(table, Norm, True), TABLE), FAMILY)["gradcheck"]

    line = inspect.getsource(Norm).splitlines()
    number = inspect.getsourcelines(Norm)[1] + next(n for n, text in enumerate(line) if ".detach()" in text)
    assert (found.code, found.place.rpartition(":")[2]) == ("detached", str(number))


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("seed", SEEDS)
def test_sound_models_are_left_alone(name: str, seed: int) -> None:
    factory, task = SOUND[name]
    assert red(judge_all(study_of(factory, task, seed), FAMILY)) == {}
