"""Every check of tier 3 by name, and what is said when a training cannot be taken at all."""

from __future__ import annotations

from collections.abc import Callable, Collection

from harness.errors import UserError
from harness.evidence import Evidence, Status
from harness.internal_errors import guarded, is_from_backward
from harness.owners import Selection, left_to, owned_by, settled
from harness.properties.subject import GRADIENT_OWNER, BackwardRaisedError, broken_weight
from harness.training.checks.accumulation import accumulation
from harness.training.checks.baseline_comparison import baseline_comparison
from harness.training.checks.distributed import distributed
from harness.training.checks.fine_tuning import fine_tuning
from harness.training.checks.hyperparameter_sensitivity import hyperparameter_sensitivity
from harness.training.checks.initial_loss import initial_loss
from harness.training.checks.optimizer_coverage import optimizer_coverage
from harness.training.checks.overfits_one_batch import overfits_one_batch
from harness.training.checks.resume import resume
from harness.training.checks.seeded_repeat import seeded_repeat
from harness.training.checks.step_updates import step_updates
from harness.training.checks.training_loss import TRAINING_LOSS
from harness.training.trial import Trial, too_long
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

_WITHOUT_STEPS = ("optimizer_coverage",)
"""Checks that take no step, and so are the same whatever the weights hold."""

_STEPS = {"initial_loss": 2, "step_updates": 6, "optimizer_coverage": 1, "training_loss": 6, "accumulation": 12}
"""Training steps that a check takes, where it does not see to its time itself."""


def judge_training(name: str, trial: Trial, case: str = "", judged: Collection[str] = ALL) -> Evidence:
    """The verdict of one check; see ``find_training``.

    Args:
        name: The check.
        trial: The model.
        case: The case, of a check that has them.
        judged: Names of the checks of this run.
    """
    return settled(find_training(name, trial, case), f"{name}[{case}]" if case else name, Selection(judged))


def find_training(name: str, trial: Trial, case: str = "") -> Evidence:
    """What one check finds, whatever else is judged.

    A training that cannot be taken is a finding of ``overfits_one_batch``; a backward pass that raises, and weights that are NaN, are findings
    of tier 1 and 4.

    Args:
        name: The check.
        trial: The model.
        case: The case, of a check that has them.
    """
    check = CASES[name][case] if case else CHECKS[name]
    subject = trial.subject

    def measured() -> Evidence:
        if name not in _WITHOUT_STEPS and (broken := broken_weight(subject.model)):
            return broken.evidence(name)
        reason = too_long(trial, _STEPS[name]) if name in _STEPS else ""
        return Evidence(name, Status.SKIPPED, reason) if reason else check(trial)

    def raises(error: Exception) -> Evidence:
        """Whatever the user's own training step raises is a finding about it."""
        if (isinstance(error, BackwardRaisedError) or is_from_backward(error)) and subject.backward_raises():
            return left_to(name, GRADIENT_OWNER, subject.backward_raises())
        message = str(error) if isinstance(error, UserError) else f"training raises {raised(error)}"
        return Evidence(name, Status.FAIL, message, details=owned_by(OWNER))

    return guarded(name, measured, raises, libraries=False)
