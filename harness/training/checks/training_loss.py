"""Whether a loss is averaged over the labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from harness.batches import Batch
from harness.evidence import Evidence, Status
from harness.tasks.signature import Signature
from harness.training.checks.gradient_noise import Gap, Quantities, find_gap
from harness.training.checks.observation import Observation, loss_name, observe
from harness.training.trial import UNVARIED, Trial, Variation

_NAME = "training_loss"
_ROWS = 4
_LOSS = "the loss"
_BETWEEN = "between the losses or gradients"


MakeBatch = Callable[[Trial], Batch]


def quantities(seen: Observation) -> Quantities:
    """The loss and the gradients of a step, by name."""
    loss = {} if seen.loss is None else {_LOSS: seen.loss}
    return {**loss, **seen.gradients}


def reduction(trial: Trial) -> Evidence:
    """The loss of a batch is the mean over its labels: with every row in it twice, loss and gradient are what they were."""
    sizes = replace(trial.subject.typical, batch=_ROWS)

    def once(trial: Trial, vary: Variation = UNVARIED) -> Quantities:
        return quantities(observe(trial, [trial.subject.batch(sizes)], vary=vary))

    def twice(trial: Trial, vary: Variation = UNVARIED) -> Quantities:
        batch = repeated(trial.subject.task.signature, trial.subject.batch(sizes))
        return quantities(observe(trial, [batch], vary=vary))

    gap = find_gap(trial, once, twice)
    counterexample = f"{sizes.describe(trial.subject.task)}, each row twice"
    if not gap.is_real:
        message = "the loss is averaged over the labels: with each row twice, loss and gradient are the same"
        return Evidence(_NAME, Status.OK, message, gap.measured, gap.bound, _BETWEEN, counterexample)
    how, cause, code = _say_how(once(trial), twice(trial))
    return Evidence(
        _NAME,
        Status.FAIL,
        f"{loss_name(trial)} is not averaged over the labels: with each row in the batch twice, {how}",
        gap.measured,
        gap.bound,
        _BETWEEN,
        counterexample,
        module=culprit(gap),
        cause=cause,
        code=code,
    )


def rows(trial: Trial) -> Evidence:
    """A loss over the batch compares rows: it is not the mean of the losses of the batch's halves."""
    signature = trial.subject.task.signature
    sizes = replace(trial.subject.typical, batch=_ROWS)

    def together(make: MakeBatch, trial: Trial, vary: Variation = UNVARIED) -> Quantities:
        return quantities(observe(trial, [make(trial)], vary=vary))

    def apart(make: MakeBatch, trial: Trial, vary: Variation = UNVARIED) -> Quantities:
        batch, half = make(trial), _ROWS // 2
        parts = [signature.rows(batch, part) for part in (slice(half), slice(half, None))]
        found = [quantities(observe(trial, [part], vary=vary)) for part in parts]
        return {name: torch.stack([each[name] for each in found]).mean(0) for name in found[0]}

    def drawn(trial: Trial) -> Batch:
        return trial.subject.batch(sizes)

    def alike(trial: Trial) -> Batch:
        """Each label twice, so that every row has another one of its class."""
        batch, half = drawn(trial), _ROWS // 2
        twice = {name: torch.cat([batch[name][:half], batch[name][:half]]) for name in signature.label_names if name in batch}
        return batch if signature.has_inputs_as_labels else {**batch, **twice}

    at = sizes.describe(trial.subject.task)
    gap, taught = find_gap(trial, partial(together, drawn), partial(apart, drawn)), together(drawn, trial)
    if not gap.is_real and _is_silent(taught):  # as where no two rows of the batch are of one class
        gap, taught = find_gap(trial, partial(together, alike), partial(apart, alike)), together(alike, trial)
    if not gap.is_real and _is_silent(taught):
        return Evidence(
            _NAME, Status.SKIPPED, f"no gradient reaches the model from {_ROWS} rows, so it is not known what is compared"
        )
    if gap.is_real:
        return Evidence(_NAME, Status.OK, "the loss compares the rows of a batch", gap.measured, gap.bound, _BETWEEN, at)
    return Evidence(
        _NAME,
        Status.FAIL,
        f"{loss_name(trial)} compares no rows, though `loss` is declared `over: batch`: it is the mean of the losses of the batch's halves",
        gap.measured,
        gap.bound,
        _BETWEEN,
        at,
        cause="similarities along another axis than the rows', such as that of the embedding; or a loss that is not over the batch: leave "
        "`over` out",
        code="rows_not_compared",
    )


def _is_silent(taught: Quantities) -> bool:
    """Whether a step gave no parameter a gradient."""
    return not any(bool(gradient.any()) for name, gradient in taught.items() if name != _LOSS)


def repeated(signature: Signature, batch: Batch) -> Batch:
    """Every row twice."""
    return signature.rows(batch, [*range(signature.row_count(batch))] * 2)


def culprit(gap: Gap) -> str:
    """The parameter to name, where it is not simply all of them."""
    parameters = [name for name in gap.differing if name != _LOSS]
    return parameters[0] if len(parameters) == len(gap.differing) == 1 else ""


def _say_how(once: Quantities, twice: Quantities) -> tuple[str, str, str]:
    """What happens, cause and code."""
    ratio = _size(twice) / max(_size(once), 1e-30)
    what = "the loss" if _LOSS in once else "the gradient"
    if 1.9 < ratio < 2.1:
        return (
            f"{what} doubles, so larger batches take larger steps",
            'reduction="sum", or a division by a fixed number such as the configured batch size, which the last batch of an epoch may not have',
            "summed",
        )
    changed = f"{what} becomes {ratio:.3g} times as large"
    if abs(ratio - 1) < 0.05:
        changed = f"{what} changes by {abs(ratio - 1):.1%}" if abs(ratio - 1) > 0.0005 else f"{what} changes, though not in size"
    return (
        changed,
        "a term that depends on which rows are in the batch: statistics over the batch, pairs of rows, or a sum",
        "depends_on_batch",
    )


def _size(found: Quantities) -> float:
    if _LOSS in found:
        return float(found[_LOSS].abs())
    return float(torch.stack([_norm(tensor) for tensor in found.values()]).norm())


def _norm(tensor: Tensor) -> Tensor:
    return tensor.double().norm()
