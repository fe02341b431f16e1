"""Every check of tier 3 by name, and what is said when a training cannot be taken at all."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import replace

from harness.errors import TimeBudgetError, UserError
from harness.evidence import Evidence, Status
from harness.training.checks.accumulation import accumulation
from harness.training.checks.baseline import baseline_comparison
from harness.training.checks.coverage import optimizer_coverage
from harness.training.checks.distributed import distributed
from harness.training.checks.fine_tuning import fine_tuning
from harness.training.checks.initial_loss import initial_loss
from harness.training.checks.overfitting import overfits_one_batch
from harness.training.checks.ownership import owned_by
from harness.training.checks.pace import too_long
from harness.training.checks.repeat import seeded_repeat
from harness.training.checks.resume import resume
from harness.training.checks.sensitivity import hyperparameter_sensitivity
from harness.training.checks.training_loss import TRAINING_LOSS
from harness.training.checks.updates import step_updates
from harness.training.trial import Trial
from harness.user_code import raised

Check = Callable[[Trial], Evidence]

CHECKS: dict[str, Check] = {
    "initial_loss": initial_loss,
    "overfits_one_batch": overfits_one_batch,
    "step_updates": step_updates,
    "optimizer_coverage": optimizer_coverage,
    "accumulation": accumulation,
    "seeded_repeat": seeded_repeat,
    "resume": resume,
    "distributed": distributed,
    "fine_tuning": fine_tuning,
    "hyperparameter_sensitivity": hyperparameter_sensitivity,
    "baseline_comparison": baseline_comparison,
}
"""Checks with a single verdict, by name."""

CASES: dict[str, dict[str, Check]] = {"training_loss": TRAINING_LOSS}
"""Checks that are judged case by case, by name."""

ALL = frozenset((*CHECKS, *CASES))
"""Names of every check of tier 3."""

OWNER = "overfits_one_batch"
"""The check that says that a model cannot be trained."""

_STEPS = {"initial_loss": 2, "step_updates": 6, "optimizer_coverage": 1, "training_loss": 6, "accumulation": 12}
"""Training steps that a check takes, where it does not see to its time itself."""


def judge_training(name: str, trial: Trial, case: str = "", judged: Container[str] = ALL) -> Evidence:
    """The evidence of one check.

    A training that cannot be taken is said once, by ``overfits_one_batch``, and so is a bug that one check owns and others suffer from:
    they skip with a hint where the owner is judged too, and fail where it is not.

    Args:
        name: The check.
        trial: The model.
        case: The case, of a check that has them.
        judged: Names of the checks of this run.
    """
    check = CASES[name][case] if case else CHECKS[name]
    try:
        reason = too_long(trial, _STEPS[name]) if name in _STEPS else ""
        evidence = Evidence(name, Status.SKIPPED, reason) if reason else check(trial)
    except TimeBudgetError:
        raise
    except Exception as error:  # whatever the user's own training step raises is a finding about it
        message = str(error) if isinstance(error, UserError) else f"training raises {raised(error)}"
        evidence = Evidence(name, Status.FAIL, message, details=owned_by(OWNER))
    return _left_to_owner(evidence, f"{name}[{case}]" if case else name, judged)


def _left_to_owner(evidence: Evidence, own: str, judged: Container[str]) -> Evidence:
    owner = str(evidence.details.get("owner", own))
    if owner == own or owner.partition("[")[0] not in judged or evidence.status is Status.OK:
        return evidence
    return replace(evidence, status=Status.SKIPPED, message=f"{evidence.message} (see {owner})", investigate=None)
