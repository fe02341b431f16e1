"""The tests of the catalogue's entries: each asks for what its tier works on and judges the entry's function; and tests run by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Any

import pytest

from harness.catalogue import CATALOGUE, Property
from harness.catalogue.entry import Search, load
from harness.evidence import Evidence
from harness.tasks import TaskSpec

if TYPE_CHECKING:
    from pytest_modeltiers.verdicts import Judge


@dataclass(frozen=True)
class Tier:
    """What the tests of a tier work on.

    Attributes:
        fixture: The fixture that the entries' functions are given.
        find: Dotted path of the function that runs one check: from the property's name, the fixture and the case to evidence. Empty in tier
            1, whose checks are judged on inputs that are searched.
    """

    fixture: str
    find: str = ""


TIERS: Mapping[int, Tier] = {
    1: Tier("subject"),
    2: Tier("study", "harness.analysis:find_analysis"),
    3: Tier("trial", "harness.training.checks:find_training"),
    4: Tier("exports", "harness.export.checks:find_export"),
    5: Tier("monitor", "harness.monitoring.checks:find_monitoring"),
}


def make_test(entry: Property) -> Callable[..., None]:
    """The test method of a property: its docstring is the statement, and it asks for a case where there are several."""
    fixtures = (TIERS[entry.tier].fixture, "judge", *(("case",) if entry.has_cases else ()))

    def test(_self: object, judge: Judge, case: str = "", **given: Any) -> None:
        judge_property(entry, judge, given[TIERS[entry.tier].fixture], case)

    test.__name__ = f"test_{entry.name}"
    test.__qualname__ = f"TestTier{entry.tier}.{test.__name__}"
    test.__doc__ = f"{entry.statement[0].upper()}{entry.statement[1:]}."
    parameters = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in ("self", *fixtures)]
    test.__signature__ = Signature(parameters)  # type: ignore[attr-defined]  # pytest reads from it which fixtures are asked for
    for mark in entry.marks:
        test = getattr(pytest.mark, mark)(test)
    return test


make_test.__test__ = False  # type: ignore[attr-defined]


def judge_property(entry: Property, judge: Judge, given: Any, case: str = "") -> None:
    """Has a judge look for what violates a property."""
    if path := TIERS[entry.tier].find:
        judge.finds(lambda: load(path)(entry.name, given, case))
    else:
        _search(entry, judge, case)


def _search(entry: Property, judge: Judge, case: str) -> None:
    """Judges a property of tier 1 on the inputs that its entry asks for."""
    from pytest_modeltiers import strategies

    search, check = entry.search_of(case), entry.load(case)
    for path in search.first:
        judge.holds(load(path))
    if search.anchors_first:
        judge.holds_at_anchors(check)
    if search.draws:
        drawn = getattr(strategies, search.draws)(judge.subject.task).filter(judge.subject.reach.allows)
        judge.for_all(check, drawn, examples=search.examples)
    else:
        for values in search.given:
            judge.holds(check, **values)
    if search.corner:
        judge.holds_at_corner(check, **getattr(strategies, search.corner)(judge.subject))
    if search.outputs:
        _judge_outputs(judge, check, search)


def _judge_outputs(judge: Judge, check: Callable[..., Any], search: Search) -> None:
    """Judges what forward returns beside the logits: at typical sizes, or on the values that are given where nothing is drawn."""
    from harness.properties.outputs import further_outputs, judge_output
    from pytest_modeltiers import strategies

    wanted = search.outputs
    assert wanted is not None
    check = load(wanted.function) if wanted.function else check
    given: tuple[Mapping[str, Any], ...] = ({"sizes": judge.subject.typical},) if search.draws else search.given
    if wanted.at:
        given = (getattr(strategies, wanted.at)(judge.subject),)
    for output in further_outputs(judge.subject):
        if (output.declared or not wanted.declared) and (not wanted.shape or getattr(output, wanted.shape)):
            for values in given:
                judge.holds(partial(judge_output, name=judge.name, output=output, check=check), **values)


Provide = Callable[[str], Any]
"""A fixture's value by its name."""

Run = Callable[[str, str | None], Evidence]
"""Runs a test by its property and its case."""


def run_test(judge: Judge, case: str | None, provide: Provide) -> Evidence:
    """The verdict of one test of a tier."""
    entry = CATALOGUE[judge.name]
    fixture = TIERS[entry.tier].fixture
    try:
        judge_property(entry, judge, judge.subject if fixture == "subject" else provide(fixture), case or "")
    except pytest.skip.Exception as skipped:
        return Evidence.skipped(judge.name, str(skipped))
    except Exception as error:
        judge.meets(error)
    return judge.finish()


class Answers:
    """Verdicts of owners that do not run, each found once.

    Args:
        task: The task; what does not apply to it cannot be asked.
        tiers: The tiers that can be asked.
    """

    def __init__(self, task: TaskSpec, tiers: Collection[int]) -> None:
        self._task = task
        self._tiers = tiers
        self._known: dict[str, Evidence | None] = {}
        self._standing_in: dict[str, str] = {}

    def stands_in(self, owner: str, own: str) -> str:
        """The test that fails in the place of an owner that does not run: the first that met what it owns."""
        return self._standing_in.setdefault(owner, own)

    def of(self, run: Run, owner: str) -> Evidence | None:
        """The worst verdict of an owner's tests; ``None`` where it cannot be asked, or is being asked already."""
        if owner not in self._known:
            self._known[owner] = None  # an owner that refers to itself by way of others has no answer
            try:
                self._known[owner] = self._ask(run, owner)
            except BaseException:  # such as a time budget that is spent; the next one to ask may have more of it
                del self._known[owner]
                raise
        return self._known[owner]

    def _ask(self, run: Run, owner: str) -> Evidence | None:
        name, _, case = owner.rstrip("]").partition("[")
        entry = CATALOGUE.get(name)
        if entry is None or entry.tier not in self._tiers or not entry.applies_to(self._task) or (entry.formats and not case):
            return None
        cases = (case,) if case else entry.cases_for(self._task) or (None,)
        return max((run(name, one) for one in cases), key=lambda evidence: evidence.status.severity)
