"""One tester for all planted bugs: the bug is caught by the right property with the right blame, and its twin is quiet."""

from __future__ import annotations

import linecache
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.catalogue import CATALOGUE
from harness.evidence import Evidence, Status

from .register import PlantedBug
from .setups import Setup

UNCLEAR = re.compile(
    r"\b0 other|becomes 1 times|(?<![.\d])1 (others|(?!of )\w+ \w+s|positions)\b|\bNone\b|``|\n|Traceback| at 0x|(?<!<)lambda|raises of|\bnan\b"
)
"""Slips of a sentence that is put together from parts."""


SEEDS = (0, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2, 3)))
"""Seeds of the weights of sound models; one of them is enough for every run."""

LEARNING = ("initial_loss", "overfits_one_batch", "step_updates", "optimizer_coverage", "training_loss", "accumulation")
"""Properties of tier 3 whose bugs are near to each other, so that all of them judge each bug."""


MANY = ("declared_policies", "declared_shapes", "declared_texts")
"""Families of tier 1 whose sound models are judged by their bugs' properties in every run, and by the whole tier at night."""


@dataclass(frozen=True)
class Twin:
    """A sound model, and what is judged of it.

    Attributes:
        setup: The model.
        tier: The tier that judges it.
        tests: The tests that must pass, those of the bugs that it is the twin of.
    """

    setup: Setup
    tier: int
    tests: set[str]

    def __str__(self) -> str:
        properties = sorted({test.partition("[")[0] for test in self.tests})
        return f"tier{self.tier}-{self.setup.name}" + (f"-{'-'.join(properties)}" if self.tier > 1 else "")

    @property
    def is_of_many(self) -> bool:
        """Whether it is one of so many that the whole tier judges it at night only."""
        build = getattr(self.setup, "build", None)
        return self.tier == 1 and getattr(build, "__module__", "").rpartition(".")[2] in MANY

    @property
    def judged(self) -> tuple[str, ...]:
        """The properties of which none may be red: in tier 1, where that is quick, all; elsewhere those that judge its bugs."""
        return whole_tier(1) if self.tier == 1 else self.judged_with_its_bugs

    @property
    def judged_with_its_bugs(self) -> tuple[str, ...]:
        """The properties that judge its bugs."""
        properties = (test.partition("[")[0] for test in sorted(self.tests))
        return tuple(dict.fromkeys(name for each in properties for name in judged_of_a_bug(each)))


def twins_of(bugs: Iterable[PlantedBug]) -> list[Twin]:
    """The sound models of some bugs, once each."""
    twins: list[Twin] = []
    for bug in bugs:
        same = (twin for twin in twins if (twin.setup, twin.tier) == (bug.sound, bug.tier))
        twin = next(same, None)
        if twin is None:
            twins.append(twin := Twin(bug.sound, bug.tier, set()))
        twin.tests.add(bug.test)
    return twins


def judged_of_a_bug(name: str) -> tuple[str, ...]:
    """The properties that judge a model with a bug that one of them must catch; none of the others may be red without a word."""
    return LEARNING if name in LEARNING else (name,)


def whole_tier(tier: int) -> tuple[str, ...]:
    """Names of the properties of a tier."""
    return tuple(name for name, entry in CATALOGUE.items() if entry.tier == tier)


def assert_caught(bug: PlantedBug, folder: Path, judged: tuple[str, ...] = ()) -> None:
    """Checks that a bug is caught by its test, blamed on its module, told in one clear line, and not reported by other tests.

    Args:
        bug: The bug.
        folder: An empty folder for files.
        judged: The properties that judge it.
    """
    found = bug.buggy.judge(judged or judged_of_a_bug(bug.property), folder)
    evidence = found[bug.test]
    if bug.missed:
        assert evidence.status is Status.OK, f"it is found now, and no longer `missed`: {evidence.explain()}"
        return
    assert evidence.status is bug.status, evidence.explain()
    assert evidence.name == bug.property
    assert not bug.code or evidence.code == bug.code, f"{evidence.code!r}, not {bug.code!r}: {evidence.explain()}"
    assert bug.says in evidence.message, evidence.explain()
    assert bug.blames(evidence.module), f"blames {evidence.module!r}, not {bug.module!r}: {evidence.explain()}"
    assert bug.line in named_line(evidence), f"names {named_line(evidence)!r}: {evidence.explain()}"
    assert evidence.cause or bug.tier not in (2, 3) or "NaN" in evidence.message
    assert len(evidence.headline) > 20
    assert not UNCLEAR.search(evidence.headline), evidence.headline
    assert set(red(found)) - {bug.test} <= set(bug.also), red(found)


def named_line(evidence: Evidence) -> str:
    """The line of code that a finding names."""
    file, _, number = evidence.place.rpartition(":")
    return linecache.getline(file, int(number)) if number.isdigit() else ""


def assert_quiet(twin: Twin, folder: Path, judged: tuple[str, ...] = ()) -> None:
    """Checks that nothing fails on a sound model, and that the tests that catch the bug pass.

    Args:
        twin: The sound model.
        folder: An empty folder for files.
        judged: The properties that judge it.
    """
    found = twin.setup.judge(judged or twin.judged, folder)
    warns = twin.tier > 1
    loud = [text for test, text in red(found).items() if warns or found[test].status is Status.FAIL]
    assert not loud, "\n".join(loud)
    for test in sorted(twin.tests):
        assert found[test].status is Status.OK, f"{test}: {found[test].explain()}"


def red(found: dict[str, Evidence]) -> dict[str, str]:
    """The findings that fail or warn, explained."""
    return {test: evidence.explain() for test, evidence in found.items() if evidence.status in (Status.FAIL, Status.WARN)}
