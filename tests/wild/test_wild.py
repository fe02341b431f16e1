"""Every wild bug is there, is gone in its twin, and is found by the property that is about it, on the right module."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from harness.catalogue import CATALOGUE
from harness.evidence import Status
from tests.planted_bugs.tester import judged_of_a_bug, whole_tier

from .register import AREAS, FIELDS, NOISE, WildBug, wild_bugs, wrongness

BUGS = wild_bugs()
REPORT = re.compile(r"[\w.-]+/[\w.-]+(#\d+|@[0-9a-f]{7,40})")


def _marked(bugs: Iterable[WildBug]) -> list[Any]:
    return [pytest.param(bug, marks=pytest.mark.long) if bug.long else bug for bug in bugs]


@pytest.mark.parametrize("bug", _marked(BUGS), ids=str)
def test_the_bug_is_in_one_model_and_not_in_the_other(bug: WildBug) -> None:
    assert not wrongness(bug, bug.buggy) <= 10 * NOISE
    assert wrongness(bug, bug.sound) <= NOISE


@pytest.mark.parametrize("bug", _marked(bug for bug in BUGS if not bug.missed), ids=str)
def test_a_wild_bug_is_found(bug: WildBug, tmp_path: Path) -> None:
    found = bug.setup(bug.buggy).judge(judged_for(bug), tmp_path)
    evidence = bug.finding(found)
    assert evidence, [found[test].explain() for test in bug.tests]
    assert bug.blames(evidence) is not bool(bug.unnamed), (
        f"names {evidence.where!r}, not {bug.module or bug.line!r}: {evidence.explain()}"
    )


@pytest.mark.parametrize("bug", _marked(bug for bug in BUGS if bug.missed), ids=str)
def test_a_missed_bug_is_still_missed(bug: WildBug, tmp_path: Path) -> None:
    evidence = bug.finding(bug.setup(bug.buggy).judge(judged_for(bug), tmp_path))
    assert evidence is None, f"found now: drop `missed`. {evidence.explain()}"


@pytest.mark.parametrize("bug", _marked(BUGS), ids=str)
def test_a_corrected_model_is_quiet(bug: WildBug, tmp_path: Path) -> None:
    judged = whole_tier(1) if bug.tier == 1 else judged_for(bug)
    found = bug.setup(bug.sound).judge(judged, tmp_path)
    assert {test: evidence.explain() for test, evidence in found.items() if evidence.status is Status.FAIL} == {}
    if not bug.missed:
        assert Status.OK in {found[test].status for test in bug.tests if test in found}, [
            each.explain() for each in found.values()
        ]


def judged_for(bug: WildBug) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for each in bug.judged for name in judged_of_a_bug(each)))


@pytest.mark.parametrize("bug", BUGS, ids=str)
def test_a_pair_says_where_it_comes_from(bug: WildBug) -> None:
    assert bug.area in AREAS
    assert bug.field in FIELDS
    assert REPORT.fullmatch(bug.report)
    assert bug.title
    assert not bug.title.endswith(".")
    assert {CATALOGUE[name].tier for name in bug.judged} == {bug.tier}
    assert bug.drawn_after or bug.first_run is None


def test_no_report_is_counted_twice() -> None:
    reports = [bug.report for bug in BUGS]
    assert len(reports) == len(set(reports))
