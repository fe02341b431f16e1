"""From evidence to the outcome of a test.

A judge collects the evidence of one test, keeps the worst of it, and fails, warns, skips or passes. Where a size or a value is free,
Hypothesis draws it and shrinks what fails to the smallest counterexample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis.errors import Flaky
from hypothesis.strategies import SearchStrategy

from harness.batches import Sizes, smallest_sizes
from harness.catalogue import CATALOGUE
from harness.errors import MemoryFullError, MissingOutputError, OutputError, UserError
from harness.evidence import Evidence, Status, guarded, internal_error
from harness.internal_errors import is_from_backward, is_internal
from harness.models.wrapped import left_out
from harness.owners import Selection, is_left, left_to, settled
from harness.properties.calling import CALLS, BackwardRaisedError, ModelRaisedError
from harness.properties.computed_dtypes import HIDDEN_BY
from harness.properties.contracts import call_of, unusable
from harness.properties.model_variants import shortened
from harness.properties.places import located
from harness.properties.prerequisites import (
    FINITE_OWNER,
    GRADIENT_OWNER,
    RANDOM,
    RANDOM_OWNER,
    SHAPE_OWNER,
    TRAIN_MODE_OWNER,
    left_to_weights,
    not_finite,
)
from harness.properties.reading import depicted
from harness.properties.subject import Subject
from harness.runtime import processor_seconds
from harness.user_code import raised
from pytest_modeltiers.compat import modules_may_raise
from pytest_modeltiers.strategies import LONGEST_USUAL, smallest_failing
from pytest_modeltiers.time_budget import CutShortError

EXAMPLES = 8
"""Draws for a property with free sizes."""
Check = Callable[..., Evidence]
"""A property function: from a subject and the values of an example to evidence."""

_SHRINK_FACTOR = 4

_JUDGES_RAISING = ("shape_contract", "full_length", "full_vocabulary")
"""Properties that say which sizes and tokens make forward raise; where it raises anyway, the others have nothing to add."""

_NEEDS_REPEATABLE = ("batch_independence", "padding_ignored")
"""Properties that compare calls of different shapes, for which even the same seed gives other random numbers."""

_JUDGES_FINITENESS = ("finite_output", "full_length", "full_vocabulary", "dtype_move")

EVERYTHING = Selection(CATALOGUE)
"""A run of all properties."""


class ViolationError(Exception):
    """Carries a failing example and its evidence through Hypothesis."""

    def __init__(self, case: dict[str, Any], evidence: Evidence) -> None:
        super().__init__(evidence.message)
        self.case = case
        self.evidence = evidence


class Judge:
    """Judges one test.

    Attributes:
        name: The property.
        subject: The model.
        share: Seconds the test may draw examples.
        start: Seed of what is drawn.
        selection: What else is judged in this run.
        label: The property with its case, such as ``finite_output[typical]``.
        looks_into: Whether a failure is looked into for the module and the line at fault.
        worst: The worst evidence so far, whoever owns it.
        examples: How many examples were judged.
        cut: Whether the time budget kept examples from being drawn.
        blocks: Of which blocks of a large model some examples were asked, in words; empty where all were asked of all.
    """

    def __init__(
        self,
        name: str,
        subject: Subject,
        share: float,
        start: int = 0,
        selection: Selection = EVERYTHING,
        case: str | None = None,
        looks_into: bool = True,
    ) -> None:
        self.name, self.label = name, f"{name}[{case}]" if case else name
        self.subject, self.selection, self.share = subject, selection, share
        self.start, self.looks_into = start, looks_into
        self.worst: Evidence | None = None
        self.examples, self.cut, self.blocks = 0, False, ""
        self._again: Callable[[], Evidence] | None = None
        self._final: Evidence | None = None
        self._called_before, self._anchored = replace(CALLS), list[dict[str, Any]]()

    def holds(self, check: Check, **values: Any) -> None:
        """Judges one example with the given values."""
        self._keep(self._run(check, values), partial(self._run_again, check, values))

    def finds(self, measure: Callable[[], Evidence]) -> None:
        """Judges what a measurement finds."""
        self._keep(self._run(lambda _subject: measure(), {}))

    def holds_at_anchors(self, check: Check, **values: Any) -> None:
        """Judges the sizes and seeds on which ``Subject.prerequisite_failure`` rests, so that what it hides elsewhere is red here.

        Where one fails, the smallest sizes are found at which it fails in the same way.
        """
        out_of_time = self._out_of_time()
        for sizes, number in self.subject.reach.anchors:
            case = {"sizes": sizes, "seed": number, **values}
            evidence = self._run(check, case)
            if self._is_own_failure(evidence):
                self._keep_smallest(check, case, evidence, smallest_sizes(self.subject.task), out_of_time)
                return
            self._keep(evidence)
            self._anchored.append(case)

    def holds_at_corner(self, check: Check, **values: Any) -> None:
        """Judges inputs that are judged whatever was drawn, also where there was no time for it; nothing where a draw failed."""
        if self.worst is not None and self._is_own_failure(self.worst):
            return
        evidence = self._run(check, values)
        if self._is_own_failure(evidence) and set(values) == {"sizes"}:
            self._keep_smallest(check, values, evidence, smallest_sizes(self.subject.task), self._out_of_time())
        else:
            self._keep(evidence, partial(self._run_again, check, values))

    def _out_of_time(self) -> Callable[[], bool]:
        """Whether from now on as much time was used as may be for making a counterexample smaller."""
        started = processor_seconds()
        return lambda: processor_seconds() - started > self.share * _SHRINK_FACTOR

    def for_all(self, check: Check, cases: SearchStrategy[dict[str, Any]], examples: int = EXAMPLES) -> None:
        """Judges examples whose values are drawn; of those that fail, the smallest is kept.

        Nothing is drawn where a given example failed already.

        Args:
            check: The property function.
            cases: Keyword arguments of ``check``.
            examples: How many are drawn, the time budget allowing.
        """
        if self._is_unusable():
            self.holds(check)
        if self.worst is not None and (self._is_unusable() or self._is_own_failure(self.worst)):
            return
        known: dict[tuple[tuple[str, str], ...], tuple[dict[str, Any], Evidence]] = {}
        started = processor_seconds()

        def out_of_time() -> bool:
            failed = any(self._is_own_failure(evidence) for _, evidence in known.values())
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
            key = tuple(sorted((name, repr(value)) for name, value in case.items()))
            if case in self._anchored:
                return
            if key not in known:
                # An example was judged already, so the rest can be left out when time is up.
                if known and out_of_time():
                    self.cut = True
                    return
                known[key] = case, self._run(check, case)
            if self._is_own_failure(known[key][1]):
                raise ViolationError(*known[key])

        try:
            with modules_may_raise():
                judged()
        except ViolationError as violation:
            self._keep_drawn(check, violation.case, violation.evidence, out_of_time)
        except Flaky:
            case, evidence = next(pair for pair in known.values() if self._is_own_failure(pair[1]))
            self._keep_drawn(check, case, evidence, out_of_time)
        except (CutShortError, MemoryFullError):
            for _, evidence in known.values():
                self._keep(evidence)
            raise
        for _, evidence in known.values():
            if not self._is_own_failure(evidence):
                self._keep(evidence)

    def finish(self, told: Evidence | None = None) -> Evidence:
        """The verdict: the worst evidence, judged once more, with its place, and left to its owner; or what was found out since."""
        self._final = told or self._final
        if self._final is None:
            worst = self.worst or Evidence.failed(self.name, "nothing was compared", code="nothing_compared")
            self._final = settled(self._confirmed(worst), self.label, self.selection)
            if self.looks_into and self._final.status in (Status.FAIL, Status.WARN):
                found, (_, given) = located(self._final.investigated(), self.subject.model), self.counterexample or (None, {})
                self._final = depicted(found, self.subject, self.label, given)
        return self._final

    @property
    def counterexample(self) -> tuple[Check, dict[str, Any]] | None:
        """The property function and the values that showed the worst failure; ``None`` where they are not known."""
        return self._again.args if isinstance(self._again, partial) else None

    def verdict(self) -> dict[str, Any]:
        """The finding as JSON-ready values; without evidence where the test ended before its verdict, as by a skip."""
        evidence = None if self._final is None else self._final.to_json()
        calls = CALLS.since(self._called_before)
        found = {"property": self.name, "evidence": evidence, "examples": self.examples, "cut": self.cut}
        return {**found, "forwards": calls.forwards, "rows": calls.rows, "blocks": self.blocks}

    def stop(self, reason: str) -> None:
        """Records that the test could not continue, which is a failure; nothing more is looked into."""
        self._keep(Evidence.failed(self.name, reason, code="not_measured"))
        assert self.worst is not None
        self._final = replace(self.worst, investigate=None)

    def cut_short(self, reason: str) -> None:
        """Records that time or memory ended the test before all was judged: what failed stays, what held says nothing of the rest."""
        self.cut = True
        if self._final is not None:  # only a fix was still looked for
            return
        if self.worst is None or not self._is_own_failure(self.worst):
            held = f"; what was judged by then held ({self.examples} examples)" if self.worst and self.examples > 1 else ""
            self.worst = Evidence.skipped(self.name, reason + held)
        self._final = replace(self.worst, investigate=None)

    def meets(self, error: Exception) -> None:
        """Records what the test itself raised, outside of a check."""
        found = internal_error(self.name, error) if is_internal(error) else self._raised(error, {})
        self._keep(self._left_as_unusable() if self._is_unusable() else found)

    def _is_own_failure(self, evidence: Evidence) -> bool:
        """Whether a failure is this test's to report."""
        return evidence.status is Status.FAIL and not is_left(evidence, self.label)

    def _is_unusable(self) -> bool:
        why = unusable(self.subject)
        return bool(why) and self.name not in (SHAPE_OWNER, why.owner)

    def _left_as_unusable(self) -> Evidence:
        why = unusable(self.subject)
        return left_to(self.name, why.owner, why.reason)

    def _keep_drawn(self, check: Check, case: dict[str, Any], evidence: Evidence, out_of_time: Callable[[], bool]) -> None:
        """Keeps a failure that was drawn, at a length between the usual ones and the longest where it fails there too."""
        sizes = case.get("sizes")
        if isinstance(sizes, Sizes) and set(case) == {"sizes", "seed"}:
            least = Sizes(sizes.batch, min(sizes.seq, LONGEST_USUAL), min(sizes.target_seq, LONGEST_USUAL))
            self._keep_smallest(check, case, evidence, least, out_of_time)
        else:
            self._keep(evidence, partial(self._run_again, check, case))

    def _keep_smallest(
        self, check: Check, case: dict[str, Any], evidence: Evidence, least: Sizes, out_of_time: Callable[[], bool]
    ) -> None:
        """Keeps a failure, and in its place the one at the smallest sizes that fail in the same way."""
        self._keep(evidence, partial(self._run_again, check, case))
        if self.worst is evidence:  # kept before smaller sizes are tried, for which there may be no time
            case, evidence = smallest_failing(case, evidence, partial(self._run, check), least, out_of_time, self.subject.task)
            self.worst, self._again = evidence, partial(self._run_again, check, case)

    def _run(self, check: Check, values: dict[str, Any]) -> Evidence:
        self.examples += 1
        if self._is_unusable():
            return self._left_as_unusable()
        if self.subject.model.training:
            self.subject.model.eval()
        return self._asked(self.subject, check, values)

    def _asked(self, subject: Subject, check: Check, values: dict[str, Any]) -> Evidence:
        """Judges an example, of a large model in few of its blocks; the whole is asked where they fail, but not for what its rounding hides."""
        short = shortened(subject, self.label, self.examples)
        held = None if short is None else self._judged(short, check, values)
        if short is not None and held is not None and (held.status is Status.OK or HIDDEN_BY in held.details):
            self.blocks = short.shared.blocks
            return held
        return self._judged(subject, check, values)

    def _judged(self, subject: Subject, check: Check, values: dict[str, Any]) -> Evidence:
        def measured() -> Evidence:
            reason = left_out(subject.model, self.label)
            return Evidence.skipped(self.name, reason) if reason else self._attributed(check(subject, **values))

        return guarded(self.name, measured, lambda error: self._raised(error, values))

    def _attributed(self, evidence: Evidence) -> Evidence:
        """The evidence; where something else is wrong with the model that explains it, left to the property that says so."""
        if self.label == FINITE_OWNER and self.subject.prerequisite_failure.weight is not None:
            # Also where no input of this test reaches the weight.
            return self.subject.prerequisite_failure.weight.evidence(self.name)
        if evidence.status not in (Status.FAIL, Status.WARN):
            return evidence
        failure = self.subject.prerequisite_failure
        if self.name == SHAPE_OWNER and evidence.status is Status.FAIL and unusable(self.subject):
            return replace(evidence, message=f"{evidence.message}; {call_of(self.subject)}")
        if (
            failure.not_finite
            and failure.weight is None
            and self.name == "finite_output"
            and self.label not in (FINITE_OWNER, self.name)
        ):
            return not_finite(failure, self.name)
        if evidence.measured == float("inf") and failure.not_finite and self.name not in _JUDGES_FINITENESS:
            return not_finite(failure, self.name)
        if evidence.status is Status.FAIL and failure.random and self.name in _NEEDS_REPEATABLE:
            return left_to(self.name, RANDOM_OWNER, RANDOM, code="random_logits")
        return left_to_weights(failure, evidence)

    def _raised(self, error: Exception, values: dict[str, Any]) -> Evidence:
        """What it means that the model, or torch on its behalf, raises under a check."""
        subject = self.subject
        shown = ", ".join(f"{name}={_shown(value, subject)}" for name, value in values.items())
        if isinstance(error, BackwardRaisedError) or is_from_backward(error):
            if subject.backward_raises():
                return left_to(self.name, GRADIENT_OWNER, subject.backward_raises(), code="backward_raises")
            if why := subject.backward_raises(train=False):
                return Evidence.skipped(self.name, f"in eval mode {why}")
            message = f"cannot be judged, the backward pass raises {_told(error)}"
            return Evidence.failed(self.name, message, counterexample=shown, code="backward_raises")
        if isinstance(error, OutputError) and self.name == SHAPE_OWNER:
            return self._attributed(Evidence.failed(self.name, str(error), counterexample=shown, code="not_measured"))
        if isinstance(error, UserError) and self.label != TRAIN_MODE_OWNER and subject.train_mode_failure:
            return left_to(self.name, TRAIN_MODE_OWNER, subject.train_mode_failure, code="not_measured")
        if isinstance(error, MissingOutputError) and self.name != "declared_outputs":
            return left_to(self.name, "declared_outputs", str(error), code="not_measured")
        if isinstance(error, ModelRaisedError):
            if subject.prerequisite_failure.raises and self.name not in _JUDGES_RAISING:
                return left_to(self.name, SHAPE_OWNER, subject.prerequisite_failure.raises, code="raises")
            message = f"cannot be judged, forward raises: {error}"
            return Evidence.failed(self.name, message, counterexample=shown, module=error.module, code="raises")
        return Evidence.failed(self.name, f"cannot be judged: {_told(error)}", counterexample=shown, code="not_measured")

    def _run_again(self, check: Check, values: dict[str, Any]) -> Evidence:
        """Judges an example once more, on a copy of the model that no earlier example was run on."""
        return self._asked(replace(self.subject, model=self.subject.fresh(), given_copies=self.subject.copies), check, values)

    def _confirmed(self, evidence: Evidence) -> Evidence:
        """A failure with a counterexample is run once more; one that does not fail again is said to be not reproducible."""
        if self._again is None or not self._is_own_failure(evidence) or not evidence.counterexample:
            return evidence
        if self._again().status in (Status.FAIL, Status.WARN):
            return evidence
        message = f"{evidence.message} (not reproducible: a fresh copy of the model passes at the same inputs)"
        return replace(evidence, message=message, details={**evidence.details, "reproducible": False})

    def _keep(self, evidence: Evidence, again: Callable[[], Evidence] | None = None) -> None:
        if self.worst is None or self._rank(evidence) > self._rank(self.worst):
            self.worst, self._again = evidence, again

    def _rank(self, evidence: Evidence) -> tuple[int, bool, float, bool]:
        """Worse is larger: a failure of this property before one left to another, then what measured something; last, that small sizes fail."""
        own = self._is_own_failure(evidence)
        spared = not own and evidence.code in ("raises", "not_finite") and self.subject.prerequisite_failure.small_only
        return (-1 if spared else evidence.status.severity, own, evidence.excess, evidence.measured is not None)


def conclude(evidence: Evidence, strict: bool) -> None:
    """Ends a test with the outcome its evidence stands for.

    Raises:
        pytest.fail.Exception: The property does not hold, or is in doubt and warnings are to fail.
        pytest.skip.Exception: Nothing could be judged.
    """
    if evidence.status is Status.FAIL or (strict and evidence.status is Status.WARN):
        pytest.fail(evidence.explain(), pytrace=False)
    if evidence.status is Status.SKIPPED:
        pytest.skip(evidence.message)


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else raised(error)


def _shown(value: Any, subject: Subject) -> str:
    return f"({value.describe(subject.task)})" if hasattr(value, "describe") else repr(value)
