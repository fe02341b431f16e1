"""Tier 3 finds every planted bug by the right check, without a row of other red lines, and is quiet on its twin."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch

from harness.catalogue import CATALOGUE, Property
from harness.evidence import Evidence, Status
from harness.tasks import TaskSpec
from harness.training.checks.table import judge_training

from .planted import SCORES, Planted, Training, all_planted
from .planted_sound import UNUSUAL

JUDGED = ("initial_loss", "overfits_one_batch", "step_updates", "optimizer_coverage", "training_loss", "accumulation")
"""The properties whose bugs are planted here."""

ENTRIES = tuple(CATALOGUE[name] for name in JUDGED)
PLANTED = all_planted()
SOUND: list[Training] = []
for _planted in PLANTED:
    SOUND += [_planted.sound] if _planted.sound not in SOUND else []

_CLUMSY = re.compile(r"\b0 other|\bNone\b|``|\n|Traceback| at 0x|lambda")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cases_of(entry: Property, task: TaskSpec) -> list[tuple[str, str]]:
    """Names and cases of a property that are judged for a task."""
    if not entry.applies_to(task):
        return []
    return [(entry.name, case) for case in (entry.cases_for(task) if entry.cases else ("",))]


def judge_all(training: Training) -> dict[str, Evidence]:
    """What every check finds."""
    trial = training.trial()
    found = {}
    for entry in ENTRIES:
        for name, case in cases_of(entry, training.task):
            found[f"{name}[{case}]" if case else name] = judge_training(name, trial, case, JUDGED).investigated()
    return found


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.name)
def test_bug_is_found_and_named_once(planted: Planted) -> None:
    found = judge_all(planted.broken)
    evidence = found[planted.test]
    assert evidence.status.value == planted.status, evidence.explain()
    assert planted.says in evidence.message
    assert evidence.module == planted.module
    assert evidence.cause or "NaN" in evidence.message
    assert not _CLUMSY.search(evidence.headline)
    red = {test for test, other in found.items() if other.status in (Status.FAIL, Status.WARN)} - {planted.test}
    assert red <= set(planted.also), {test: found[test].headline for test in red}


@pytest.mark.parametrize("sound", SOUND, ids=lambda sound: getattr(sound.build, "__name__", "model"))
def test_twin_is_quiet(sound: Training) -> None:
    found = judge_all(sound)
    assert {test: other.explain() for test, other in found.items() if other.status in (Status.FAIL, Status.WARN)} == {}
    tests = {planted.test for planted in PLANTED if planted.sound == sound}
    assert {found[test].status for test in tests} == {Status.OK}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_but_sound(name: str) -> None:
    found = judge_all(UNUSUAL[name])
    assert {test: other.explain() for test, other in found.items() if other.status in (Status.FAIL, Status.WARN)} == {}
    skipped = {test for test, other in found.items() if other.status is Status.SKIPPED}
    assert skipped == {"PlainBackward": {"initial_loss"}, "Adversary": {"accumulation", "training_loss[targets]"}}.get(
        name, set()
    )


def test_what_there_is_no_time_for_is_left_out() -> None:
    trial = SCORES.trial()
    trial.seconds = 1e-4
    for entry in ENTRIES:
        for name, case in cases_of(entry, trial.subject.task):
            evidence = judge_training(name, trial, case, JUDGED)
            assert evidence.status is Status.SKIPPED
            assert "`time_budget` leaves" in evidence.message


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_check_and_case_has_a_planted_bug(entry: Property) -> None:
    expected = {f"{entry.name}[{case}]" for case in entry.cases} or {entry.name}
    assert expected <= {planted.test for planted in PLANTED}


def test_names_are_unique() -> None:
    assert len({planted.name for planted in PLANTED}) == len(PLANTED)
