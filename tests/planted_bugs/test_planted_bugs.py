"""Every planted bug is caught by the property that is about it, blamed on the right module, and absent from its twin."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from harness.catalogue import CATALOGUE
from harness.evidence import Evidence, Status
from harness.owners import REFERS

from .register import FAMILIES, PlantedBug, all_bugs
from .setups import Model
from .tester import LEARNING, Twin, assert_caught, assert_quiet, twins_of, whole_tier

BUGS = all_bugs()
TIMES = re.compile(r"\d[\d.]* (?:ms|s)\b|\d+(?:\.\d+)?(?:e[-+]?\d+)? (?:times|MiB)")
BY_NAME = {bug.name: bug for bug in BUGS}


@pytest.fixture
def quick_processes(request: pytest.FixtureRequest) -> None:
    """Two processes that only train together are forks."""
    judged: PlantedBug | Twin = request.node.callspec.params.get("bug") or request.node.callspec.params["twin"]
    if "distributed" in (judged.tests if isinstance(judged, Twin) else (judged.test,)):
        request.getfixturevalue("forked")


@pytest.mark.usefixtures("quick_processes")
@pytest.mark.parametrize("bug", BUGS, ids=str)
def test_a_bug_is_caught_and_blamed(bug: PlantedBug, tmp_path: Path) -> None:
    assert_caught(bug, tmp_path)


@pytest.mark.usefixtures("quick_processes")
@pytest.mark.parametrize(
    "twin", [pytest.param(twin, marks=pytest.mark.long if twin.is_of_many else ()) for twin in twins_of(BUGS)], ids=str
)
def test_a_sound_twin_is_quiet(twin: Twin, tmp_path: Path) -> None:
    assert_quiet(twin, tmp_path)


@pytest.mark.parametrize("twin", [twin for twin in twins_of(BUGS) if twin.is_of_many], ids=str)
def test_a_sound_twin_passes_the_tests_of_its_bugs(twin: Twin, tmp_path: Path) -> None:
    assert_quiet(twin, tmp_path, twin.judged_with_its_bugs)


def test_every_property_and_case_has_a_bug() -> None:
    tests = {
        f"{entry.name}[{case}]" if case else entry.name
        for entry in CATALOGUE.values()
        if entry.tier in FAMILIES
        for case in (entry.cases or ("",))
    }
    assert tests == {bug.test for bug in BUGS}


def plants(file: Path) -> bool:
    """Whether a file registers bugs when it is imported."""
    names = {"planted", "plant", "plant_declared", "_plant", "_warned", "register"}
    body = ast.parse(file.read_text(encoding="utf-8")).body
    loops = [node for node in body if isinstance(node, ast.For)]
    for node in (*body, *(inner for loop in loops for inner in loop.body)):
        calls = node.decorator_list if isinstance(node, ast.ClassDef) else [node.value] if isinstance(node, ast.Expr) else []
        if any(isinstance(call, ast.Call) and getattr(call.func, "id", "") in names for call in calls):
            return True
    return False


def test_every_family_is_registered() -> None:
    planting = {(file.parent.name, file.stem) for file in Path(__file__).parent.glob("tier*/*.py") if plants(file)}
    assert planting == {(f"tier{tier}", family) for tier, families in FAMILIES.items() for family in families}


@pytest.mark.long  # one of them, `FourRowsInOneLayer`, is judged by the whole tier below
@pytest.mark.parametrize("bug", [bug for bug in BUGS if bug.property == "shape_contract"], ids=str)
def test_wrong_shapes_crash_no_other_property(bug: PlantedBug, tmp_path: Path) -> None:
    whole = bug.buggy.judge(whole_tier(1), tmp_path)
    assert whole[bug.test].status is Status.FAIL or left_to_an_owner(bug, whole)


@pytest.mark.parametrize("name", ["MaskSkippedAtFullLength", "ViewOfTheIds", "MaskCachedFromALongerCall"])
def test_without_time_for_examples_the_corner_is_judged(name: str) -> None:
    bug = BY_NAME[name]
    assert isinstance(bug.buggy, Model)
    finding = bug.buggy.judged([bug.property], share=0)[bug.test]
    assert finding.status is bug.status, finding.explain()


ONLY_RED = {
    "FirstCallOfAShapeKept": {"stateless"},
    "HiddenStateKept": {"stateless"},
    "EmbeddingOneRowShort": {"full_vocabulary"},
    "FourRowsInOneLayer": {"shape_contract"},
    "LengthOfAZeroVector": {"gradient_flow[finite]"},
}
"""Bugs that disturb what other properties compare, and all that may be red about them."""


@pytest.mark.parametrize("name", ONLY_RED)
def test_one_bug_is_not_told_by_every_property(name: str, tmp_path: Path) -> None:
    found = BY_NAME[name].buggy.judge(whole_tier(1), tmp_path)
    assert {test for test, finding in found.items() if finding.status is Status.FAIL} == ONLY_RED[name]


def told(evidence: Evidence, folder: Path) -> tuple[str, str, str, str]:
    """What a finding says, whatever it took and wherever its files are."""
    message = TIMES.sub("#", evidence.message.replace(str(folder), "FOLDER"))
    return evidence.status.value, message, evidence.counterexample, evidence.module


def left_to_an_owner(bug: PlantedBug, whole: dict[str, Evidence]) -> bool:
    """Whether what is found of a bug names another property, which fails."""
    owners = tuple(REFERS.findall(whole[bug.test].message))
    return bool(owners) and any(each.status is Status.FAIL and name.startswith(owners) for name, each in whole.items())


def assert_same_alone(bug: PlantedBug, among: tuple[str, ...], folder: Path) -> None:
    """Checks that a property says the same of a bug when it runs alone as among others; what others own is theirs there."""
    folders = [folder / "among", folder / "alone"]
    for each in folders:
        each.mkdir()
    whole, alone = (bug.buggy.judge(judged, each) for judged, each in zip((among, (bug.property,)), folders, strict=True))
    assert whole[bug.test].status is bug.status or left_to_an_owner(bug, whole)
    for name, evidence in alone.items():
        if not REFERS.search(whole[name].message):
            assert told(evidence, folders[1]) == told(whole[name], folders[0])


@pytest.mark.parametrize(
    ("tier", "name", "among"),
    [
        (2, "one head unmasked", ("attention_patterns", "attribution", "half_precision")),
        (3, "softmax_twice", LEARNING),
        (4, "dropout_traced", whole_tier(4)),
    ],
)
def test_a_verdict_is_the_same_alone_and_among_others(tier: int, name: str, among: tuple[str, ...], tmp_path: Path) -> None:
    assert_same_alone(next(bug for bug in BUGS if (bug.tier, bug.name) == (tier, name)), among, tmp_path)


SLOW = ("compiled", "seeded_repeat", "distributed")
"""Properties that wait for a compiler or another process, ten times as long as all others of their tier; no finding is left to them."""

FIRST = {bug.property: bug.name for bug in reversed(BUGS)}
"""The first bug of each property."""


def all_beside(bug: PlantedBug) -> tuple[str, ...]:
    """The bug's tier. The slow ones are part of it for one bug of each property, and only where they are judged before that."""
    whole = whole_tier(bug.tier)
    slow = [name for name in SLOW if name in whole[: whole.index(bug.property)] and FIRST[bug.property] == bug.name]
    return tuple(name for name in whole if name not in SLOW or name in (bug.property, *slow))


@pytest.mark.long
@pytest.mark.parametrize("bug", [bug for bug in BUGS if not bug.missed], ids=str)
def test_a_verdict_is_the_same_alone_and_among_all(bug: PlantedBug, tmp_path: Path) -> None:
    assert_same_alone(bug, all_beside(bug), tmp_path)


def test_nothing_is_left_to_a_slow_property() -> None:
    owners = {
        owner.partition("[")[0] for entry in CATALOGUE.values() for case in ("", *entry.cases) for owner in entry.owners(case)
    }
    assert not owners & set(SLOW)
