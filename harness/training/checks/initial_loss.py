"""The first loss of a training, as the model's own training step computes it."""

from __future__ import annotations

import math

from harness.batches import Batch, Sizes
from harness.evidence import Evidence, Status
from harness.training.checks.observation import Observation, loss_name, observe
from harness.training.checks.ownership import owned_by
from harness.training.checks.readings import MEAN, Reading, are_probabilities, read_loss
from harness.training.trial import Trial

_NAME = "initial_loss"
_ROWS = 8
_FAR = 0.5
"""How far, in powers of e, a factor is from 1 that is worth a word."""

_LOUD = (
    "an embedding or head initialised with too large a scale (nn.Embedding's default of 1, tied to the head), a missing final norm, or inputs "
    "that are not normalised"
)


def initial_loss(trial: Trial) -> Evidence:
    """The first loss of a training lies near log C, that of a uniform guess.

    Unlike tier 1's ``initialisation``, which knows the model alone, it goes through the training step that the user wrote. Where the logits
    can be seen, the loss and the gradient that it sends back to them are held against the formulas that are commonly written by mistake, so
    that the verdict rests on what the step computes rather than on how large the number came out. A loss of another kind, such as with
    smoothed labels or an auxiliary term, is judged by its size: a warning from 1 nat above log C, a failure from log C + 1 above.
    """
    subject = trial.subject
    if not subject.fresh_weights:
        return Evidence(_NAME, Status.SKIPPED, "the weights are loaded, not freshly initialised")
    typical = subject.typical
    sizes = Sizes(_ROWS, typical.seq, typical.target_seq)
    batch = subject.batch(sizes)
    trained = observe(trial, [batch], train=True)
    if trained.loss is None:
        return Evidence(
            _NAME, Status.SKIPPED, f"{loss_name(trial)} sends nothing back through Lightning, so its loss is not seen"
        )
    still = observe(trial, [batch])
    loss, reading = float(trained.loss), read_loss(subject.task, still, batch)
    if still.repeats > 1 and reading != MEAN:
        # A step over several batches may as well take their sum as their mean: then it is the loss of one of them that tells.
        loss, reading = loss / still.repeats, read_loss(subject.task, still.of_one_batch(), batch)
    return _judge(trial, loss, reading, still, batch, sizes)


def _judge(trial: Trial, loss: float, reading: Reading | None, still: Observation, batch: Batch, sizes: Sizes) -> Evidence:
    task = trial.subject.task
    uniform = math.log(task.output_size or 1)
    what = f"the first loss of {loss_name(trial)} is {loss:.3g}"
    guess = f"a uniform guess over {task.output_size} classes has {uniform:.2f}"
    allowed = task.tolerances.get(_NAME, uniform + 1.0)
    excess = loss - uniform
    status, message, cause = Status.OK, f"{what}; {guess}", ""
    owner: dict[str, str] = {}
    if still.logits is not None and are_probabilities(still.logits):
        status = Status.FAIL
        message = f"the model returns probabilities instead of logits: {_floor(trial)}"
        cause = "a softmax at the end of the model, where the loss has one of its own: return the logits"
    elif reading is not None and reading.is_flaw:
        status, cause = Status.FAIL, reading.cause
        owner = owned_by("training_loss[reduction]") if reading.scale != 1.0 else {}  # the sum of which ``reduction`` says more
        message = f"{what}: it is {reading.name}" + (f", so {_floor(trial)}" if "softmax(" in reading.name else f"; {guess}")
    elif not excess <= allowed:
        status, (message, cause) = Status.FAIL, _too_large(f"{what}; {guess}", reading)
    elif excess > min(1.0, allowed):
        status, (message, cause) = Status.WARN, _too_large(f"{what}; {guess}", reading)
    elif reading is not None and abs(math.log(reading.scale)) > _FAR and not _scales_itself(trial):
        status, message, cause = Status.WARN, f"{what}: it is {reading.name}", reading.cause
    elif reading is None and still.logits is None and loss < uniform / 2 and still.repeats == 1:
        status, message = Status.WARN, f"{what}, less than a model that knows nothing can have: {guess}"
        cause = "a loss that is scaled down, or divided by positions that have no label"
    return Evidence(
        _NAME,
        status,
        message,
        excess,
        allowed,
        "nats above log C",
        f"{sizes.describe(task)}, train mode, seed=0",
        cause=cause,
        details={"loss": loss, "uniform": uniform, "formula": reading.name if reading else "of another kind", **owner},
        compared=f"loss {loss:.3g}, uniform guess {uniform:.3g} (allowed up to {uniform + allowed:.3g})",
    )


def _scales_itself(trial: Trial) -> bool:
    """Whether the training step has to divide by the batches a step, as one with manual optimisation has."""
    return trial.is_own and not getattr(trial.subject.model, "automatic_optimization", True)


def _too_large(message: str, reading: Reading | None) -> tuple[str, str]:
    if reading is None:
        return message, f"an auxiliary term of that size, a sum where the mean is meant, or {_LOUD}"
    if reading == MEAN:
        return f"{message}: the fresh model is sure of wrong answers", _LOUD
    return f"{message}: it is {reading.name}", reading.cause


def _floor(trial: Trial) -> str:
    """What the loss cannot go below where softmax is taken twice: the right class has e to 1 against each of the others."""
    classes = trial.subject.task.output_size or 1
    return f"the loss can never go below {math.log(1 + (classes - 1) / math.e):.2f}"
