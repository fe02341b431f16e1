"""Every check of tier 2 by name, and what is said of a model that cannot be analysed."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import replace

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
from harness.errors import TimeBudgetError, UserError
from harness.evidence import Evidence, Status
from harness.properties.subject import Trouble
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


def judge_analysis(name: str, study: Study, case: str = "", judged: Container[str] = ALL) -> Evidence:
    """The evidence of one check.

    A model that raises, is not finite or is random is a finding of tier 1; nothing more can be learnt by looking into it. A finding that
    another check owns is left to it where it is judged too.

    Args:
        name: The check.
        study: The model.
        case: The case, of a check that has them.
        judged: Names of the checks of this run.
    """
    check = CASES[name][case] if case else CHECKS[name]
    try:
        hidden = _hidden_by(study.subject.trouble)
        evidence = Evidence(name, Status.SKIPPED, hidden) if hidden else check(study)
    except TimeBudgetError:
        raise
    except Exception as error:  # a model that does not let itself be looked into is none the worse for it
        return Evidence(name, Status.SKIPPED, f"the model cannot be looked into: {_said(error)}")
    owner = str(evidence.details.get("owner", ""))
    if owner.partition("[")[0] not in judged or evidence.status not in (Status.FAIL, Status.WARN):
        return evidence
    return replace(evidence, status=Status.SKIPPED, message=f"{evidence.message} (see {owner})", investigate=None)


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else raised(error)


def _hidden_by(trouble: Trouble) -> str:
    """Why the model has to be put right first; empty where it need not be."""
    if trouble.raises:
        return f"{trouble.raises} (see shape_contract)"
    if trouble.not_finite:
        return f"{trouble.not_finite} (see finite_output)"
    return "logits in eval mode are random (see eval_deterministic)" if trouble.random else ""
