"""Help for a finding: a change of the code with which the property was seen to hold, and a script that was seen to fail in the same way."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from harness.catalogue import CATALOGUE
from harness.errors import TimeBudgetError
from harness.evidence import Status
from harness.excerpts import Excerpt
from harness.fixes import find_fix
from harness.fixes.edits import Change
from harness.fixes.state_rules import OF_STATE, rules_of_training
from harness.internal_errors import describe
from harness.models.copies import Copies
from harness.models.loading import ModelSource
from harness.properties.places import file_of, shown_place
from harness.properties.reproduction import Building, script_of
from harness.properties.subject import Shared, Subject
from harness.runtime import bytes_of_weights, processor_seconds
from harness.user_code import is_written_here
from harness.written_in import file_of_class
from pytest_modeltiers.property_tests import run_test
from pytest_modeltiers.verdicts import Judge

SECONDS = 2.0
"""Processor time that is spent on a finding."""

_MOST_TIMES = 6
"""Times the time for one finding that a process spends: where much is broken, the first findings are what to begin with."""

_LAST_TIER = 3
"""The last tier whose tests ask the model itself."""

_SHARE = 0.05
"""Seconds that a test may draw examples when it is asked again."""

_MOST_BYTES = 1 << 26
"""Of weights: a larger model takes too long to be built again and again."""

_SEEN_ON_THEIR_LINE = ("differs_when_repeated",)
"""Codes of findings whose line was watched doing it, such as drawing a random number."""

_BY_CHANCE = ("dead_by_chance",)
"""Codes of findings that other weights do not have: a change of the code may be without them by luck."""

_STILL_HOLD = (
    ("shape_contract", None),
    ("finite_output", "typical"),
    ("eval_deterministic", None),
    ("batch_independence", "forward"),
    ("input_dependence", "inputs"),
    ("gradient_flow", "reaches_every_parameter"),
    ("causal", None),
)
"""Tests that a change must not break, beside the one that it fixes."""

Remake = Callable[[str, Subject], Any]
"""A fixture's value for another subject, by the fixture's name."""


@dataclass
class Help:
    """Help for the findings of a process.

    Attributes:
        each: Processor seconds that may be spent on a finding; none is helped with 0.
        used: Those that were spent.
        fixes: The changes that were found: tried first on what else is found, as one mistake shows in many properties.
    """

    each: float
    used: float = 0.0
    fixes: list[Change] = field(default_factory=list)

    def add(self, judge: Judge, case: str | None, remake: Remake, most: float, source: ModelSource | None) -> None:
        """Adds a script and a fix to what a judge found, where there are any.

        Args:
            judge: Who found it.
            case: The case of the property.
            remake: Makes what the tier works on from a subject.
            most: Processor seconds that the time budget leaves for it.
            source: How the model is built; ``None`` where a script cannot say it.
        """
        if self.each <= 0 or most <= 0:
            return
        started = processor_seconds()
        try:
            if source is not None:
                add_script(judge, source)
            look_for_fix(judge, case, remake, min(self.each, _MOST_TIMES * self.each - self.used, most), self.fixes)
        except TimeBudgetError:
            pass
        except Exception as error:  # the finding stands; an error of ours is told with it
            found, (message, details) = judge.finish(), describe(judge.name, error)
            told = f"{found.message}; a fix could not be looked for: {message}"
            judge.finish(replace(found, message=told, details=found.details | details))
        self.used += min(processor_seconds() - started, self.each)  # one slow trial leaves time for other findings


def look_for_fix(
    judge: Judge, case: str | None, remake: Remake, seconds: float = SECONDS, earlier: list[Change] | None = None
) -> None:
    """Adds a change of the code that fixes it to what a judge found, where it is a failure and there is one.

    Args:
        judge: Who found it.
        case: The case of the property.
        remake: Makes what the tier works on from a subject.
        seconds: Processor time that the search may take.
        earlier: See ``find_fix``.
    """
    subject, evidence = judge.subject, judge.finish()
    entry = CATALOGUE.get(evidence.name)
    if (
        evidence.status not in (Status.FAIL, Status.WARN)
        or entry is None
        or entry.tier > _LAST_TIER
        or evidence.code in _BY_CHANCE
    ):
        return
    if bytes_of_weights(subject.model) > _MOST_BYTES:
        return
    files = [file for file in _files_of(subject.model) if is_written_here(file)]
    excerpt = evidence.excerpt
    place = (_path_of(excerpt.file, subject), excerpt.line) if excerpt is not None else None
    only = OF_STATE if evidence.name in ("serialisation", "registration") else None
    if entry.tier == _LAST_TIER:
        only = rules_of_training(f"{evidence.name}[{case}]" if case else evidence.name)
    again = _Again(judge, evidence.name, case, remake)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = find_fix(place, files, again.holds, again.broken, seconds, only, earlier)
    if found is None:
        return
    fix, is_known = found
    if not is_known and place is not None and (evidence.status is Status.WARN or evidence.code in _SEEN_ON_THEIR_LINE):
        return  # of these their own line says more than a change with which they are not given
    # The line to look at is the one to change, also where it is another one that shows what is wrong.
    file = _path_of(fix.file, subject)
    at = replace(evidence, excerpt=Excerpt.of(file, fix.line), place=shown_place(file, fix.line))
    judge.finish(replace(at, fix=fix) if is_known else at)


def _path_of(name: str, subject: Subject) -> str:
    """The file that a finding names, or the cell of a notebook, as code names it."""
    return str(file_of(name, subject.model) or Path(name).absolute())


def add_script(judge: Judge, source: ModelSource) -> None:
    """Adds a script that shows a failure of tier 1 without this package to what a judge found, where one is known that fails too.

    Args:
        judge: Who found it.
        source: How the model is built.
    """
    evidence, subject = judge.finish(), judge.subject
    entry = CATALOGUE.get(evidence.name)
    if evidence.status is not Status.FAIL or entry is None or entry.tier > 1 or bytes_of_weights(subject.model) > _MOST_BYTES:
        return
    values = judge.counterexample[1] if judge.counterexample is not None else {}
    building = Building.of(source)
    if building is not None and (text := script_of(evidence, subject, values, building)):
        judge.finish(replace(evidence, details={**evidence.details, "script": text}))


def _files_of(model: nn.Module) -> list[str]:
    files = dict.fromkeys(file_of_class(cls) for module in model.modules() for cls in type(module).__mro__)
    return list(filter(None, files))


class _Again:
    """Asks tests once more, of a model that is built again."""

    def __init__(self, judge: Judge, name: str, case: str | None, remake: Remake) -> None:
        self.judge, self.name, self.case, self.remake = judge, name, case, remake

    def holds(self) -> bool:
        """Whether the property holds: at the counterexample, which is asked first, and wherever else it is judged."""
        try:
            subject = self._anew()
            given = self.judge.counterexample
            if given is not None and given[0](replace(subject, model=subject.fresh()), **given[1]).status is not Status.OK:
                return False
            return self._status(subject, self.name, self.case) is Status.OK
        except Exception:  # whatever a model raises whose code was changed
            return False

    def broken(self) -> frozenset[str]:
        """Which of the other tests fail."""
        task = self.judge.subject.task
        asked = [(name, case) for name, case in _STILL_HOLD if CATALOGUE[name].applies_to(task) and name != self.name]
        try:
            subject = self._anew()
            return frozenset(name for name, case in asked if self._status(subject, name, case) is Status.FAIL)
        except Exception:  # such a change is not offered
            return frozenset({*(name for name, _ in asked), "raises"})

    def _anew(self) -> Subject:
        old = self.judge.subject  # of a model as it is, what is changed is the code of its classes, which a copy shares
        build = partial(old.rebuild, old.seed) if old.rebuild is not None else old.copies.fresh
        pristine = build().eval()
        copies = Copies(pristine, lambda: build().eval())
        return replace(old, model=pristine, pristine=pristine, shared=Shared(), given_copies=copies)

    def _status(self, subject: Subject, name: str, case: str | None) -> Status:
        copy = replace(subject, model=subject.fresh())
        judge = Judge(name, copy, _SHARE, self.judge.start, case=case, looks_into=False)
        return run_test(judge, case, lambda fixture: self.remake(fixture, copy)).status
