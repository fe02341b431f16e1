"""Every check of tier 2 by name, and what is said of a model that cannot be analysed."""

from __future__ import annotations

from collections.abc import Callable, Collection

from harness.analysis.attention_kernels import attention_kernels
from harness.analysis.attention_patterns import ATTENTION_PATTERNS
from harness.analysis.attribution import attribution
from harness.analysis.calibration import calibration
from harness.analysis.compiled import compiled
from harness.analysis.gradcheck import gradcheck
from harness.analysis.half_precision import HALF_PRECISION
from harness.analysis.representation_rank import representation_rank
from harness.analysis.robustness import ROBUSTNESS
from harness.analysis.study import Study
from harness.analysis.units import DEAD_UNITS
from harness.errors import UserError
from harness.evidence import Evidence, Status
from harness.internal_errors import guarded, internal_error, is_from_backward
from harness.owners import Selection, left_to, settled
from harness.properties.subject import GRADIENT_OWNER, BackwardRaisedError, Subject
from harness.properties.trouble import hidden_by, left_to_weights
from harness.user_code import raised

Check = Callable[[Study], Evidence]

CHECKS: dict[str, Check] = {
    "attribution": attribution,
    "representation_rank": representation_rank,
    "attention_kernels": attention_kernels,
    "compiled": compiled,
    "gradcheck": gradcheck,
    "calibration": calibration,
}
"""Checks with a single verdict, by name."""

CASES: dict[str, dict[str, Check]] = {
    "attention_patterns": ATTENTION_PATTERNS,
    "robustness": ROBUSTNESS,
    "dead_units": DEAD_UNITS,
    "half_precision": HALF_PRECISION,
}
"""Checks that are judged case by case, by name."""

ALL = frozenset((*CHECKS, *CASES))
"""Names of every check of tier 2."""


def judge_analysis(name: str, study: Study, case: str = "", judged: Collection[str] = ALL) -> Evidence:
    """The verdict of one check; see ``find_analysis``.

    Args:
        name: The check.
        study: The model.
        case: The case, of a check that has them.
        judged: Names of the checks of this run.
    """
    return settled(find_analysis(name, study, case), f"{name}[{case}]" if case else name, Selection(judged))


def find_analysis(name: str, study: Study, case: str = "") -> Evidence:
    """What one check finds, whatever else is judged.

    A model that raises, is not finite or is random is a finding of tier 1; nothing more can be learnt by looking into it.

    Args:
        name: The check.
        study: The model.
        case: The case, of a check that has them.
    """
    check = CASES[name][case] if case else CHECKS[name]
    subject = study.subject

    def measured() -> Evidence:
        return hidden_by(subject.trouble, name) or left_to_weights(subject.trouble, check(study))

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
