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


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Evidence]]:
    """Findings by pair, so that the tests of one pair judge its buggy model once."""
    return {}


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
class TestBuggy:
    def test_is_caught(self, pair: Pair, found: dict[str, dict[str, Evidence]]) -> None:
        finding = _finding(pair, found)
        assert finding.status is pair.status, finding.explain()

    def test_is_told_in_one_clear_line(self, pair: Pair, found: dict[str, dict[str, Evidence]]) -> None:
        headline = _finding(pair, found).headline
        assert len(headline) > 20
        assert not _CLUMSY.search(headline), headline

    def test_names_the_module(self, pair: Pair, found: dict[str, dict[str, Evidence]]) -> None:
        if pair.module:
            blamed = _finding(pair, found).module
            assert blamed == pair.module or blamed.startswith((f"{pair.module}.", f"{pair.module}[")), blamed


@pytest.mark.parametrize("sound", SOUND, ids=lambda sound: sound.__name__)
def test_sound_twin_passes(sound: Factory) -> None:
    pairs = SOUND[sound]
    findings = judge_model(sound, pairs[0].task)
    failures = [finding.explain() for finding in findings.values() if finding.status is Status.FAIL]
    assert not failures, "\n".join(failures)
    for test in sorted({pair.test for pair in pairs}):
        assert findings[test].status is Status.OK, f"{test}: {findings[test].explain()}"


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair.property == "shape_contract"], ids=lambda pair: pair.name)
def test_wrong_shapes_crash_no_other_property(pair: Pair) -> None:
    assert judge_model(pair.buggy, pair.task)[pair.test].status is Status.FAIL


@pytest.mark.parametrize("key", KEYS)
def test_every_property_and_case_has_a_pair(key: str) -> None:
    assert any(pair.test == key for pair in PAIRS)


def test_every_pair_expects_a_known_finding() -> None:
    assert {pair.test for pair in PAIRS} <= set(KEYS)


def test_a_sound_twin_serves_one_task() -> None:
    assert all(len({pair.task.task_type for pair in pairs}) == 1 for pairs in SOUND.values())


def _finding(pair: Pair, found: dict[str, dict[str, Evidence]]) -> Evidence:
    if pair.name not in found:
        found[pair.name] = judge_model(pair.buggy, pair.task, only=[pair.property])
    return found[pair.name][pair.test]
