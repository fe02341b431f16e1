"""What must hold of a model's training, one file a family: from a trial to evidence.

Here is how a check is run, and what is said of a model that cannot be trained; `lines` has the line of the user's training code to look at.
"""

from __future__ import annotations

import linecache
import re
import traceback
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from harness.catalogue import CATALOGUE
from harness.errors import DivergedError, UserError
from harness.evidence import Blame, Evidence, Status, guarded
from harness.internal_errors import is_from_backward
from harness.owners import left_to, owned_by
from harness.properties.calling import BackwardRaisedError
from harness.properties.places import shown_place
from harness.properties.prerequisites import GRADIENT_OWNER, broken_weight
from harness.training.checks.lines import with_line
from harness.training.trial import Trial, too_long
from harness.user_code import raised
from harness.wording import joined

_WORD = re.compile(r"[A-Za-z_]\w*")

_OWNERS = ("overfits_one_batch", "step_updates")
"""The checks that say that a model cannot be trained: the first that makes sense for the task."""

_OF_DIVERGED = ("overfits_one_batch", "training_loss[one_class]", "step_updates")
"""The same of a loss that is not finite for some rows."""

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
    "memory_growth": 8,
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
        return Evidence.skipped(name, message)

    def measured() -> Evidence:
        if name not in _WITHOUT_STEPS and (broken := broken_weight(subject.model)):
            return broken.evidence(name)
        reason = too_long(trial, _STEPS[name]) if name in _STEPS else ""
        return Evidence.skipped(name, reason) if reason else check(trial)

    def raises(error: Exception) -> Evidence:
        """Whatever the user's own training step raises is a finding about it."""
        if (isinstance(error, BackwardRaisedError) or is_from_backward(error)) and subject.backward_raises():
            return left_to(name, GRADIENT_OWNER, subject.backward_raises(), code="backward_raises")
        owner = next(each for each in _OWNERS if CATALOGUE[each].needs(subject.task))
        label = f"{name}[{case}]" if case else name
        owner = _meets_it_too(label, trial) if isinstance(error, DivergedError) else owner
        message = str(error) if isinstance(error, UserError) else f"training raises {raised(error)}"
        at = Blame("") if isinstance(error, DivergedError) else where_raised(error)
        message += f", where {at.note}" if at.note else ""
        found = Evidence.failed(
            name,
            message,
            module=str(at),
            place=at.place,
            details={} if owner == label else owned_by(owner),
            code="training_raises",
        )
        return with_line(found, trial, diverged=True) if isinstance(error, DivergedError) else found

    return with_line(guarded(name, measured, raises, libraries=False), trial)


def _meets_it_too(label: str, trial: Trial) -> str:
    """Which test reports a loss that is not finite: the first about training at all that meets one too, as each is given other rows."""
    for owner in _OF_DIVERGED:
        name, _, case = owner.rstrip("]").partition("[")
        if owner == label or find_training(name, trial, case).status in (Status.FAIL, Status.WARN):
            return owner
    return label


def where_raised(error: BaseException) -> Blame:
    """Where in the user's code a training step raised: the module, the line, and as its note the shapes of the tensors on that line."""
    while error.__cause__ is not None:
        error = error.__cause__
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    own = [frame for frame in frames if shown_place(frame.f_code.co_filename, 1)]
    root, module = None, ""
    for frame in frames:
        running = frame.f_locals.get("self")
        if isinstance(running, nn.Module) and running in (root or running).modules():
            root = root or running
            module = next(path for path, each in root.named_modules() if each is running)
    if not own:
        return Blame(module)
    file, line = own[-1].f_code.co_filename, next(at for frame, at in traceback.walk_tb(error.__traceback__) if frame is own[-1])
    names = dict.fromkeys(_WORD.findall(linecache.getline(file, line)))
    shapes = {name: list(value.shape) for name in names if isinstance(value := own[-1].f_locals.get(name), Tensor)}
    return Blame(module, shown_place(file, line), joined([f"`{name}` is {shape}" for name, shape in list(shapes.items())[:4]]))


def first_failure(checks: Mapping[str, Callable[[Trial], Evidence]], trial: Trial) -> tuple[str, Evidence] | None:
    """The name and the finding of the first of some checks that fails.

    Args:
        checks: Checks by name that know what is behind a finding, the most likely first.
        trial: The model.
    """
    return next(((name, found) for name, check in checks.items() if (found := check(trial)).status is Status.FAIL), None)
