"""Units that chance or training silences are no finding."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from planted_bugs.setups import Factory
from planted_bugs.tasks import IMAGES, TABLE
from planted_bugs.tester import SEEDS, red
from planted_bugs.tier2.analysed import judge_all, study_of
from planted_bugs.tier2.units import Deep, Narrow, Opening, Perceptron, Pictures

from harness.evidence import Status
from harness.tasks import TaskSpec

FAMILY = ("dead_units",)


SOUND: dict[str, tuple[Factory, TaskSpec]] = {
    "Narrow": (Narrow, TABLE),
    "Deep": (Deep, TABLE),
    "Opening": (Opening, TABLE),
    "Pictures": (partial(Pictures, False), IMAGES),
}


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("seed", SEEDS)
def test_what_chance_leaves_is_no_finding(name: str, seed: int) -> None:
    factory, task = SOUND[name]
    assert red(judge_all(study_of(factory, task, seed), FAMILY)) == {}


def test_trained_units_are_not_judged_by_drawn_inputs() -> None:
    study = study_of(partial(Perceptron, bias=-30.0, start=8), TABLE)
    study.subject = replace(study.subject, fresh_weights=False)
    assert red(judge_all(study, FAMILY)) == {}


def test_a_trained_layer_that_is_silent_as_a_whole_is_found() -> None:
    study = study_of(partial(Perceptron, bias=-30.0), TABLE)
    study.subject = replace(study.subject, fresh_weights=False)
    assert judge_all(study, FAMILY)["dead_units[dead]"].status is Status.FAIL
