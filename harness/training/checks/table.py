"""Runs a check of tier 3, and says of a model that cannot be trained why."""

from __future__ import annotations

from harness.catalogue import CATALOGUE
from harness.errors import DivergedError, UserError
from harness.evidence import Evidence, Status, guarded
from harness.internal_errors import is_from_backward
from harness.owners import left_to, owned_by
from harness.properties.calling import BackwardRaisedError
from harness.properties.prerequisites import GRADIENT_OWNER, broken_weight
from harness.training.checks.code_lines import with_line
from harness.training.trial import Trial, too_long
from harness.user_code import raised

_OWNERS = ("overfits_one_batch", "step_updates")
"""The checks that say that a model cannot be trained: the first that makes sense for the task."""

_WITHOUT_STEPS = ("optimizer_coverage",)
"""Checks that take no step, and so are the same whatever the weights hold."""

_STEPS = {
    "initial_loss": 2,
    "step_updates": 6,
    "optimizer_coverage": 1,
    "training_loss": 6,
    "accumulation": 12,
    "parameter_groups": 4,
    "learning_rate_schedule": 4,
    "gradient_clipping": 4,
    "validation_pass": 12,
}
"""Training steps that a check takes, where it does not see to its time itself."""


def find_training(name: str, trial: Trial, case: str = "") -> Evidence:
    """What one check finds, whatever else is judged.

    A training that cannot be taken is a finding of ``overfits_one_batch``, or of ``step_updates`` where nothing can be overfitted; a backward
    pass that raises, and weights that are NaN, are findings of tier 1 and 4.

    Args:
        name: The check.
        trial: The model.
        case: The case, of a check that has them.
    """
    entry, subject = CATALOGUE[name], trial.subject
    check = entry.load(case)
    if not (entry.needs(subject.task) and (not case or entry.cases[case].needs(subject.task))):
        message = "the loss reads no labels that follow from the outputs; where it reads others, name them in `labels`"
        return Evidence(name, Status.SKIPPED, message)

    def measured() -> Evidence:
        if name not in _WITHOUT_STEPS and (broken := broken_weight(subject.model)):
            return broken.evidence(name)
        reason = too_long(trial, _STEPS[name]) if name in _STEPS else ""
        return Evidence(name, Status.SKIPPED, reason) if reason else check(trial)

    def raises(error: Exception) -> Evidence:
        """Whatever the user's own training step raises is a finding about it."""
        if (isinstance(error, BackwardRaisedError) or is_from_backward(error)) and subject.backward_raises():
            return left_to(name, GRADIENT_OWNER, subject.backward_raises(), code="backward_raises")
        message = str(error) if isinstance(error, UserError) else f"training raises {raised(error)}"
        owner = next(each for each in _OWNERS if CATALOGUE[each].needs(subject.task))
        found = Evidence(name, Status.FAIL, message, details=owned_by(owner), code="training_raises")
        return with_line(found, trial, diverged=True) if isinstance(error, DivergedError) else found

    return with_line(guarded(name, measured, raises, libraries=False), trial)
