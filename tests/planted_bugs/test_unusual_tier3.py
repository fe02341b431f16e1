"""Unusual trainings are left alone by tier 3, and a check without time says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.evidence import Status

from .tester import LEARNING, red
from .tier3.training import SCORES
from .tier3.unusual import UNUSUAL

SKIPPED = {"PlainBackward": {"initial_loss"}, "Adversary": {"training_loss[targets]"}}
"""What cannot be judged of a training."""

RARE = {"training_loss[balance]", "training_loss[one_class]", "training_loss[end_of_text]", "training_loss[padding]"}
"""Cases that say nothing of most models: those without routers, classes or a training step, or that name no token that ends a text."""


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_but_sound(name: str, tmp_path: Path) -> None:
    found = UNUSUAL[name].judge(LEARNING, tmp_path)
    assert red(found) == {}
    skipped = {test for test, evidence in found.items() if evidence.status is Status.SKIPPED}
    assert skipped - RARE == SKIPPED.get(name, set())


def test_what_there_is_no_time_for_is_left_out(tmp_path: Path) -> None:
    found = replace(SCORES, seconds=1e-4).judge(LEARNING, tmp_path)
    assert len(found) >= len(LEARNING)
    for evidence in found.values():
        assert evidence.status is Status.SKIPPED
        assert "`time_budget` leaves" in evidence.message
