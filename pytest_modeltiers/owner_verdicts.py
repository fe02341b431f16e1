"""Tests run by name: those of a model object, and those of an owner that is not part of the run."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import pytest

from harness.catalogue import CATALOGUE
from harness.evidence import Evidence, Status
from harness.tasks import TaskSpec
from pytest_modeltiers.judge import Judge
from pytest_modeltiers.property_tests import TIERS, judge_property

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
        return Evidence(judge.name, Status.SKIPPED, str(skipped))
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
