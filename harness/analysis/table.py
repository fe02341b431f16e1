"""Runs a check of tier 2, and says of a model that cannot be looked into why."""

from __future__ import annotations

from collections.abc import Collection

from harness.analysis.study import Study
from harness.catalogue import CATALOGUE, names_of
from harness.errors import UserError
from harness.evidence import Evidence, Status
from harness.internal_errors import guarded, internal_error, is_from_backward
from harness.owners import Selection, left_to, settled
from harness.properties.calling import BackwardRaisedError
from harness.properties.prerequisites import GRADIENT_OWNER, hidden_by, left_to_weights
from harness.properties.subject import Subject
from harness.user_code import raised


def judge_analysis(name: str, study: Study, case: str = "", judged: Collection[str] | None = None) -> Evidence:
    """The verdict of one check; see ``find_analysis``.

    Args:
        name: The check.
        study: The model.
        case: The case, of a check that has them.
        judged: Names of the checks of this run; by default all of this tier.
    """
    return settled(
        find_analysis(name, study, case),
        f"{name}[{case}]" if case else name,
        Selection(names_of(2) if judged is None else judged),
    )


def find_analysis(name: str, study: Study, case: str = "") -> Evidence:
    """What one check finds, whatever else is judged.

    A model that raises, is not finite or is random is a finding of tier 1; nothing more can be learnt by looking into it.

    Args:
        name: The check.
        study: The model.
        case: The case, of a check that has them.
    """
    check, subject = CATALOGUE[name].load(case), study.subject

    def measured() -> Evidence:
        return hidden_by(subject.prerequisite_failure, name) or left_to_weights(subject.prerequisite_failure, check(study))

    return guarded(name, measured, lambda error: _without_answer(name, subject, error))


def _without_answer(name: str, subject: Subject, error: Exception) -> Evidence:
    """What it means that the model, or torch on its behalf, raises under a check."""
    if isinstance(error, BackwardRaisedError) or is_from_backward(error):
        if subject.backward_raises():
            return left_to(name, GRADIENT_OWNER, subject.backward_raises())
        if not (subject.backward_raises(train=False) or isinstance(error, UserError)):
            return internal_error(name, error)
    said = str(error) if isinstance(error, UserError) else raised(error)
    return Evidence(name, Status.SKIPPED, f"the model cannot be looked into: {said}")
