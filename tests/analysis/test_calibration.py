"""Calibrated classifiers raise no alarm, whatever rows are drawn."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch.nn.functional as F
from planted_bugs.register import all_bugs
from planted_bugs.setups import Factory, verdict_of
from planted_bugs.tasks import CLASSES, TABLE
from planted_bugs.tester import twins_of
from planted_bugs.tier2.analysed import study_of
from planted_bugs.tier2.calibration import TOLERANT, Drawn, Scores, Trained
from torch import Tensor, nn

from harness.analysis import Study
from harness.data.loader import make_loader
from harness.evidence import Evidence, Status
from harness.tasks import TaskSpec

TWINS: list[Any] = [twin.setup for twin in twins_of(all_bugs(2)) if "calibration" in twin.tests]


def trained(factory: Factory, task: TaskSpec, count: int = 600) -> Study:
    return Trained(task, factory, count=count).study()


def judge(study: Study) -> Evidence:
    return verdict_of("calibration", study)


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.name)
@pytest.mark.long
@pytest.mark.parametrize("draw", range(1, 4))
def test_other_rows_raise_no_alarm(twin: Trained, draw: int) -> None:
    evidence = judge(replace(twin, draw=draw).study())
    assert evidence.status is Status.OK, evidence.explain()


def test_a_tolerance_is_kept_to() -> None:
    assert judge(trained(partial(Scores, 0.5), TOLERANT)).status is Status.OK


@pytest.mark.parametrize("count", [40, 120])
def test_few_rows_raise_no_alarm(count: int) -> None:
    assert judge(trained(Scores, TABLE, count)).status in (Status.OK, Status.SKIPPED)


def test_fresh_weights_are_not_judged() -> None:
    study = trained(Scores, TABLE)
    study.subject = replace(study.subject, fresh_weights=True)
    assert "is not trained" in judge(study).message


def test_without_labels_there_is_nothing_to_judge() -> None:
    study = trained(Scores, TABLE)
    study.labelled = None
    assert judge(study).status is Status.SKIPPED


class Sure(nn.Module):
    """Always right.

    Args:
        scale: How sure it is of it.
    """

    def __init__(self, scale: float = 50.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * F.one_hot((features[:, 0] > 0).long(), CLASSES).float() + 0 * features[:, :1]


@pytest.mark.parametrize("scale", [3.0, 5.0, 50.0])
@pytest.mark.parametrize("count", [100, 1000])
def test_a_model_that_is_always_right_may_be_a_little_modest(scale: float, count: int) -> None:
    study = study_of(partial(Sure, scale), TABLE)
    study.subject = replace(study.subject, fresh_weights=False)
    rows: Any = Drawn(Sure(), TABLE, count)
    study.labelled = make_loader(rows, TABLE, 64)
    evidence = judge(study)
    assert evidence.status is Status.OK, evidence.explain()
