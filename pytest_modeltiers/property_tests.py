"""The tests of the catalogue's entries: a test each, which asks for what its tier works on, and judges the entry's function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Any

import pytest

from harness.catalogue import Property
from harness.catalogue.entry import Search, load

if TYPE_CHECKING:
    from pytest_modeltiers.judge import Judge


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
    2: Tier("study", "harness.analysis.study:find_analysis"),
    3: Tier("trial", "harness.training.checks.table:find_training"),
    4: Tier("exports", "harness.export.checks.judge:find_export"),
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
    if search.first:
        judge.holds(load(search.first))
    if search.anchors_first:
        judge.holds_at_anchors(check)
    if search.draws:
        judge.for_all(check, getattr(strategies, search.draws)(judge.subject.task), examples=search.examples)
        if judge.cut and search.corner:
            judge.holds(check, **getattr(strategies, search.corner)(judge.subject))
    else:
        for values in search.given:
            judge.holds(check, **values)
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
