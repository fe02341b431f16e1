"""From evidence to the outcome of a test.

A judge collects the evidence of one test, keeps the worst of it, and fails, warns, skips or passes. Where a size or a value is free,
Hypothesis draws it and shrinks what fails to the smallest counterexample.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Hashable
from contextvars import ContextVar
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis.errors import Flaky
from hypothesis.strategies import SearchStrategy

from harness.catalogue import CATALOGUE
from harness.evidence import Evidence, Status
from harness.processor_time import processor_seconds
from harness.properties.places import located, raising_line
from harness.properties.subject import ModelRaisedError, Subject
from pytest_modeltiers.checks import ModelCheck
from pytest_modeltiers.watchdog import CutShortError

VERDICT = pytest.StashKey[dict[str, Any]]()
"""What a test found, for the report."""

FOUND: ContextVar[dict[str, Any] | None] = ContextVar("FOUND", default=None)
"""What the user's check that runs now has found."""

EXAMPLES = 8
"""Draws for a property with free sizes."""

_CONTENTS = 3
"""Contents judged at each draw."""

_APART = 100
"""How far the seeds of the contents are apart."""

Check = Callable[..., Evidence]
"""A property function: from a subject and the values of an example to evidence."""

_SHRINK_FACTOR = 4

_JUDGES_RAISING = ("shape_contract", "full_length", "full_vocabulary")
"""Properties that say which sizes and tokens make forward raise; where it raises anyway, the others have nothing to add."""

_NEEDS_REPEATABLE = ("batch_independence", "padding_ignored")
"""Properties that compare calls of different shapes, for which even the same seed gives other random numbers."""

_JUDGES_FINITENESS = ("finite_output", "full_length", "full_vocabulary", "dtype_move")


class ViolationError(Exception):
    """Carries the evidence of a failing example through Hypothesis."""

    def __init__(self, evidence: Evidence) -> None:
        super().__init__(evidence.message)
        self.evidence = evidence


class Judge:
    """Judges one test.

    Attributes:
        name: The property.
        subject: The model.
        share: Seconds the test may go on drawing examples.
        start: Seed of what is drawn.
        present: The properties that are judged in this run; what one of them owns is left to it.
        worst: The worst evidence so far.
        examples: How many examples were judged.
        cut: Whether the time budget kept examples from being drawn.
    """

    def __init__(
        self, name: str, subject: Subject, share: float, start: int = 0, present: Container[str] = frozenset(CATALOGUE)
    ) -> None:
        self.name = name
        self.present = present
        self.subject = subject
        self.share = share
        self.start = start
        self.worst: Evidence | None = None
        self.examples = 0
        self.cut = False

    def holds(self, check: Check, **values: Any) -> None:
        """Judges one example with the given values."""
        self._keep(self._run(check, values))

    def finds(self, measure: Callable[[], Evidence]) -> None:
        """Judges what a measurement finds."""
        self._keep(self._run(lambda _subject: measure(), {}))

    def holds_at_anchors(self, check: Check, **values: Any) -> None:
        """Judges the sizes and seeds on which ``Subject.trouble`` rests, so that what it hides elsewhere is red here."""
        for sizes, number in self.subject.anchors:
            self.holds(check, sizes=sizes, seed=number, **values)

    def for_all(self, check: Check, cases: SearchStrategy[dict[str, Any]], examples: int = EXAMPLES) -> None:
        """Judges examples whose values are drawn; of those that fail, the smallest is kept.

        Args:
            check: The property function.
            cases: Keyword arguments of ``check``.
            examples: How many are drawn, the time budget allowing.
        """
        known: dict[Hashable, Evidence] = {}
        started = processor_seconds()

        def out_of_time() -> bool:
            failed = any(evidence.status is Status.FAIL for evidence in known.values())
            return processor_seconds() - started > self.share * (_SHRINK_FACTOR if failed else 1)

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
            print_blob=False,
            verbosity=Verbosity.quiet,
        )
        @seed(self.start)
        @given(cases)
        def judged(case: dict[str, Any]) -> None:
            key = tuple(sorted((name, _hashable(value)) for name, value in case.items()))
            if key not in known:
                # An example was judged already, so the rest can be left out when time is up.
                if known and out_of_time():
                    self.cut = True
                    return
                known[key] = self._run_contents(check, case, out_of_time)
            if known[key].status is Status.FAIL:
                raise ViolationError(known[key])

        try:
            judged()
        except ViolationError as violation:
            self._keep(violation.evidence)
        except Flaky:
            self._keep(next(e for e in known.values() if e.status is Status.FAIL))
        except CutShortError:
            failed = [evidence for evidence in known.values() if evidence.status is Status.FAIL]
            self.worst = max([*failed, *([self.worst] if self.worst else [])], key=_rank, default=None)
            raise
        for evidence in known.values():
            if evidence.status is not Status.FAIL:
                self._keep(evidence)

    def verdict(self) -> dict[str, Any]:
        """The finding as JSON-ready values."""
        evidence = None if self.worst is None else self.worst.to_json()
        return {"property": self.name, "evidence": evidence, "examples": self.examples, "cut": self.cut}

    def stop(self, reason: str) -> None:
        """Records that the test could not go on, which is a failure."""
        self._keep(Evidence(self.name, Status.FAIL, reason))

    def cut_short(self, reason: str) -> None:
        """Records that the time budget ended the test before all was judged: what failed stays, what held says nothing of the rest."""
        self.cut = True
        if self.worst is None or self.worst.status is not Status.FAIL:
            held = f"; what was judged by then held ({self.examples} examples)" if self.worst and self.examples > 1 else ""
            self.worst = Evidence(self.name, Status.SKIPPED, reason + held)

    def _run_contents(self, check: Check, case: dict[str, Any], out_of_time: Callable[[], bool]) -> Evidence:
        """Judges what was drawn, and a few more contents of the same sizes, which cost less than a draw; returns the worst."""
        worst = self._run(check, case)
        for number in range(1, _CONTENTS if "seed" in case else 1):
            if worst.status is Status.FAIL or out_of_time():
                break
            other = self._run(check, {**case, "seed": case["seed"] + number * _APART})
            worst = max(worst, other, key=_rank)
        return worst

    def _run(self, check: Check, values: dict[str, Any]) -> Evidence:
        self.examples += 1
        if self.subject.model.training:
            self.subject.model.eval()
        try:
            evidence = check(self.subject, **values)
        except ModelRaisedError as error:
            if self._is_left_to("shape_contract", bool(self.subject.trouble.raises)) and self.name not in _JUDGES_RAISING:
                return Evidence(self.name, Status.SKIPPED, f"{self.subject.trouble.raises} (see shape_contract)")
            shown = ", ".join(f"{name}={_shown(value, self.subject)}" for name, value in values.items())
            return Evidence(
                self.name,
                Status.FAIL,
                f"cannot be judged, forward raises: {error}",
                counterexample=shown,
                module=error.module,
            )
        not_finite = evidence.measured == float("inf") and bool(self.subject.trouble.not_finite)
        if self._is_left_to("finite_output", not_finite) and self.name not in _JUDGES_FINITENESS:
            return Evidence(self.name, Status.SKIPPED, f"{self.subject.trouble.not_finite} (see finite_output)")
        random = evidence.status is Status.FAIL and self.subject.trouble.random
        if self._is_left_to("eval_deterministic", random) and self.name in _NEEDS_REPEATABLE:
            return Evidence(self.name, Status.SKIPPED, "logits in eval mode are random (see eval_deterministic)")
        return evidence

    def _is_left_to(self, owner: str, trouble: bool) -> bool:
        """Whether another property of this run is certain to fail on a trouble."""
        return trouble and owner in self.present

    def _keep(self, evidence: Evidence) -> None:
        worst = self.worst
        if worst is not None and _rank(evidence) <= _rank(worst):
            return
        self.worst = evidence  # kept before it is looked into, for which there may be no time
        if evidence.status in (Status.FAIL, Status.WARN):
            self.worst = located(evidence.investigated(), self.subject.model)


def judged(check: ModelCheck) -> Callable[..., None]:
    """A user's check as a test function: what it returns is its verdict, and an assertion that fails is one too."""

    @functools.wraps(check.function)
    def test(*args: Any, **kwargs: Any) -> None:
        finding: dict[str, Any] = {
            "property": check.name,
            "statement": check.statement,
            "evidence": None,
            "examples": 1,
            "cut": False,
        }
        FOUND.set(finding)
        try:
            result = check.function(*args, **kwargs)
        except AssertionError as error:
            finding["evidence"] = _of_assertion(check, error).to_json()
            raise
        if result is False:
            result = Evidence(check.name, Status.FAIL, check.statement or f"{check.name} does not hold")
        if isinstance(result, Evidence):
            result = result.investigated()
            finding["evidence"] = result.to_json()

    return test


def _of_assertion(check: ModelCheck, error: AssertionError) -> Evidence:
    """What an assertion of the user's says, in one line; the statement where it has no words of its own."""
    said = str(error).strip().partition("\n")[0]
    statement = check.statement or f"{check.name} does not hold"
    told = f"{statement}: {said}" if said.startswith("assert ") else said or statement
    return Evidence(check.name, Status.FAIL, told, place=raising_line(error))


def conclude(evidence: Evidence, strict: bool) -> None:
    """Ends a test with the outcome its evidence stands for.

    Args:
        evidence: The worst that was found.
        strict: Whether warnings fail.

    Raises:
        pytest.fail.Exception: The property does not hold, or is in doubt and warnings are to fail.
        pytest.skip.Exception: Nothing could be judged.
    """
    if evidence.status is Status.FAIL or (strict and evidence.status is Status.WARN):
        pytest.fail(evidence.explain(), pytrace=False)
    if evidence.status is Status.SKIPPED:
        pytest.skip(evidence.message)


def _rank(evidence: Evidence) -> tuple[int, float, bool]:
    """Worse is larger; among equals one that measured something."""
    return evidence.status.severity, evidence.excess, evidence.measured is not None


def _hashable(value: Any) -> Hashable:
    return value if isinstance(value, Hashable) else repr(value)


def _shown(value: Any, subject: Subject) -> str:
    return f"({value.describe(subject.task)})" if hasattr(value, "describe") else repr(value)
