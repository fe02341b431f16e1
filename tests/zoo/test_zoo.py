"""Every planted bug is caught by the property that is about it, blamed on the right module, and absent from its twin."""

from __future__ import annotations

import re

import pytest

from harness.catalogue import CATALOGUE
from harness.evidence import Evidence, Status
from pytest_modeltiers.live import judge_model

from .pairs import Factory, Pair, all_pairs

PAIRS = all_pairs()
KEYS = [f"{p.name}[{case}]" if case else p.name for p in CATALOGUE.values() if p.tier == 1 for case in (p.cases or ("",))]
SOUND: dict[Factory, list[Pair]] = {}
for _pair in PAIRS:
    SOUND.setdefault(_pair.sound, []).append(_pair)

_CLUMSY = re.compile(r"\b0 other|\b1 (others|\w+ \w+s|positions)\b|\bNone\b|``|\n|Traceback| at 0x|raises of")


@pytest.fixture(scope="module", params=PAIRS, ids=lambda pair: pair.name)
def pair(request: pytest.FixtureRequest) -> Pair:
    """A pair; the tests of one pair run one after the other."""
    return request.param


@pytest.fixture(scope="module")
def finding(pair: Pair) -> Evidence:
    """What the property that is about the bug finds in the buggy model."""
    return judge_model(pair.buggy, pair.task, only=[pair.property])[pair.test]


class TestBuggy:
    def test_is_caught(self, pair: Pair, finding: Evidence) -> None:
        assert finding.status is pair.status, finding.explain()

    def test_is_told_in_one_clear_line(self, finding: Evidence) -> None:
        assert len(finding.headline) > 20
        assert not _CLUMSY.search(finding.headline), finding.headline

    def test_names_the_module(self, pair: Pair, finding: Evidence) -> None:
        assert pair.blames(finding.module), f"blames {finding.module!r}, not {pair.module!r}"


@pytest.mark.parametrize("sound", SOUND, ids=lambda sound: sound.__name__)
def test_sound_twin_passes(sound: Factory) -> None:
    pairs = SOUND[sound]
    findings = judge_model(sound, pairs[0].task)
    failures = [finding.explain() for finding in findings.values() if finding.status is Status.FAIL]
    assert not failures, "\n".join(failures)
    for test in sorted({pair.test for pair in pairs}):
        assert findings[test].status is Status.OK, f"{test}: {findings[test].explain()}"


@pytest.mark.parametrize("wrong", [pair for pair in PAIRS if pair.property == "shape_contract"], ids=lambda wrong: wrong.name)
def test_wrong_shapes_crash_no_other_property(wrong: Pair) -> None:
    assert judge_model(wrong.buggy, wrong.task)[wrong.test].status is Status.FAIL


@pytest.mark.parametrize("key", KEYS)
def test_every_property_and_case_has_a_pair(key: str) -> None:
    assert any(pair.test == key for pair in PAIRS)


def test_every_pair_expects_a_known_finding() -> None:
    assert {pair.test for pair in PAIRS} <= set(KEYS)


def test_a_sound_twin_serves_one_task() -> None:
    assert all(len({pair.task.task_type for pair in pairs}) == 1 for pairs in SOUND.values())


@pytest.mark.parametrize("name", ["MaskSkippedAtFullLength", "ViewOfTheIds", "MaskCachedFromALongerCall"])
def test_without_time_for_examples_the_corner_is_judged(name: str) -> None:
    pair = next(pair for pair in PAIRS if pair.name == name)
    finding = judge_model(pair.buggy, pair.task, only=[pair.property], share=0)[pair.test]
    assert finding.status is pair.status, finding.explain()


ALONE = {
    "FirstCallOfAShapeKept": {"stateless"},
    "HiddenStateKept": {"stateless"},
    "EmbeddingOneRowShort": {"full_vocabulary"},
    "FourRowsInOneLayer": {"shape_contract"},
    "LengthOfAZeroVector": {"gradient_flow[finite]"},
}
"""Bugs that disturb what other properties compare, and all that may be red about them."""


@pytest.mark.parametrize("name", ALONE)
def test_one_bug_is_not_told_by_every_property(name: str) -> None:
    pair = next(pair for pair in PAIRS if pair.name == name)
    findings = judge_model(pair.buggy, pair.task)
    assert {test for test, finding in findings.items() if finding.status is Status.FAIL} == ALONE[name]


@pytest.mark.long
@pytest.mark.parametrize("each", PAIRS, ids=lambda each: each.name)
def test_a_verdict_is_the_same_alone_and_among_all(each: Pair) -> None:
    def said(evidence: Evidence) -> tuple[str, str, str, str]:
        return evidence.status.value, evidence.message, evidence.counterexample, evidence.module

    whole = judge_model(each.buggy, each.task)
    alone = judge_model(each.buggy, each.task, only=[each.property])
    assert whole[each.test].status is not Status.SKIPPED
    assert {name: said(evidence) for name, evidence in alone.items()} == {name: said(whole[name]) for name in alone}
