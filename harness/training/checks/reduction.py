"""Whether a loss is a mean, and over what."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.batches import Batch, Sizes
from harness.evidence import Evidence, Status
from harness.training.checks.noise import Gap, Quantities, find_gap
from harness.training.checks.observation import Observation, Prepare, loss_name, observe
from harness.training.trial import Trial

_NAME = "training_loss"
_ROWS = 4
_LOSS = "the loss"


def quantities(seen: Observation) -> Quantities:
    """The loss and the gradients of a step, by name."""
    loss = {} if seen.loss is None else {_LOSS: seen.loss}
    return {**loss, **seen.gradients}


def reduction(trial: Trial) -> Evidence:
    """The loss of a batch is the mean over its labels: with every row in it twice, loss and gradient are what they were."""
    sizes = Sizes(_ROWS, trial.subject.typical.seq, trial.subject.typical.target_seq)

    def once(trial: Trial, /, *, prepare: Prepare | None = None, seed: int = 0) -> Quantities:
        return quantities(observe(trial, [trial.subject.batch(sizes)], prepare=prepare, seed=seed))

    def twice(trial: Trial, /, *, prepare: Prepare | None = None, seed: int = 0) -> Quantities:
        batch = repeated(trial.subject.batch(sizes))
        return quantities(observe(trial, [batch], prepare=prepare, seed=seed))

    gap = find_gap(trial, once, twice)
    counterexample = f"{sizes.describe(trial.subject.task)}, each row twice"
    if not gap.is_real:
        message = "the loss is a mean: each row twice gives the same loss and gradient"
        return Evidence(_NAME, Status.OK, message, gap.measured, gap.bound, "", counterexample)
    how, cause = _say_how(once(trial), twice(trial))
    return Evidence(
        _NAME,
        Status.FAIL,
        f"{loss_name(trial)} is no mean over the labels: with each row in the batch twice {how}",
        gap.measured,
        gap.bound,
        "",
        counterexample,
        module=culprit(gap),
        cause=cause,
    )


def repeated(batch: Batch) -> Batch:
    """Every row twice."""
    return {name: torch.cat([tensor, tensor]) for name, tensor in batch.items()}


def culprit(gap: Gap) -> str:
    """The parameter to name, where it is not simply all of them."""
    parameters = [name for name in gap.differing if name != _LOSS]
    return parameters[0] if len(parameters) == len(gap.differing) == 1 else ""


def _say_how(once: Quantities, twice: Quantities) -> tuple[str, str]:
    ratio = _size(twice) / max(_size(once), 1e-30)
    what = "the loss" if _LOSS in once else "the gradient"
    if 1.9 < ratio < 2.1:
        return (
            f"{what} doubles, so larger batches take larger steps",
            'reduction="sum", or a division by a fixed number such as the configured batch size, which the last batch of an epoch lacks',
        )
    changed = f"{what} becomes {ratio:.3g} times what it was"
    if abs(ratio - 1) < 0.05:
        changed = (
            f"{what} changes by {abs(ratio - 1):.1%}"
            if abs(ratio - 1) > 0.0005
            else f"{what} is another one, though of the same size"
        )
    return (
        changed,
        "a term that depends on which rows are in the batch: statistics over the batch, pairs of rows, or a sum",
    )


def _size(found: Quantities) -> float:
    if _LOSS in found:
        return float(found[_LOSS].abs())
    return float(torch.stack([_norm(tensor) for tensor in found.values()]).norm())


def _norm(tensor: Tensor) -> Tensor:
    return tensor.double().norm()
