"""Whether a step over several small batches is the step over the one large batch that they make up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from harness.batches import IGNORED, Batch, Sizes, pad_right, to_device
from harness.evidence import Evidence, Status
from harness.owners import owned_by
from harness.tasks.signature import Signature
from harness.tasks.teaching import lines_of
from harness.training.checks import first_failure
from harness.training.checks.consecutive_steps import (
    is_first_gradient_left,
    is_summed,
    left_over_from_epoch,
    left_over_from_optimizer,
    parts_of,
    second_step,
    second_step_repeated,
    with_its_copies,
)
from harness.training.checks.gradient_noise import Gap, Quantities, disable_stochastic_layers, find_gap
from harness.training.checks.labels import fully_labelled
from harness.training.checks.lines_of_processes import where_rows_meet
from harness.training.checks.loss_targets import targets
from harness.training.checks.observation import Observation, loss_name, observe
from harness.training.checks.optimizer_coverage import optimizer_coverage
from harness.training.checks.step_updates import step_updates
from harness.training.checks.training_loss import reduction
from harness.training.trial import MOST_BATCHES, UNVARIED, Trial, Variation
from harness.wording import and_others

_NAME = "accumulation"
_ROWS = 4
_OWNERS = {
    "optimizer_coverage": optimizer_coverage,
    "step_updates": step_updates,
    "training_loss[reduction]": reduction,
    "training_loss[targets]": targets,
}

_STATE = (
    "state that one batch leaves to the next (a running mean, a cache, a counter), a loss that depends on statistics of the batch, or gradients "
    "that are cleared in between"
)
_MEAN_OF_MEANS = "a mean of means: where batches hold unequal numbers of labels, labels in a small batch weigh more"

_MEAN_OF_WEIGHTED = (
    "a mean of means: a division by the positives of a batch, or by the weights of its classes; fine where batches are alike"
)

_SAME_SUM = 1e-3
"""How far a gradient may be from the weighted mean of others, as a share, and the weights from 1 in all."""

_ALONE = (
    "a branch for one row, a squeeze() without dim, or an operator: PyTorch 2.13's batch norm on the CPU has a wrong backward pass for one "
    "row whose gradient comes transposed"
)

SIDE_TERM = (
    "a balance loss, as of a mixture of experts, or another statistic of the batch that is not a mean over its rows; if this is intended, "
    "nothing needs to change"
)
"""What the cause of such a difference usually is."""


def accumulation(trial: Trial) -> Evidence:
    """The gradient of a step over several small batches is that of the one large batch, within the gradients' own rounding noise.

    The engines weight each batch of a plain model by its labels, so its batches hold unequal numbers of them. The training step of a
    LightningModule takes means of its own, which Lightning averages: its batches hold equally many, and unequal ones, which no mean of means
    gets right, are only warned of where the config accumulates. And its second step must begin with no gradient of the first.
    """
    if not trial.is_own:
        return _judge_weighted(trial)
    seen = observe(trial, [_batch(trial, 2)] * MOST_BATCHES)
    if not seen.took_step:
        return Evidence.skipped(_NAME, f"{loss_name(trial)} took no optimizer step in {MOST_BATCHES} batches")
    if seen.optimizers > 1:
        return _judge_several(trial)
    every = max(1, seen.rows // 2)
    left_over = None if seen.looks > 1 else find_gap(trial, partial(second_step_repeated, every), partial(second_step, every))
    if left_over is not None and left_over.is_real:
        return _finding(trial, left_over, *_say_left_over(trial, every))
    if getattr(trial.subject.model, "automatic_optimization", True):
        return _judge_means(trial)
    return _judge_manual(trial, every)


def _judge_weighted(trial: Trial) -> Evidence:
    gap = find_gap(trial, _large_unequal, _small_unequal)
    if not gap.is_real:
        return _sound(gap, "gradients accumulated over batches of unequal size equal those of one large batch", _shown(trial))
    message, cause = f"gradients accumulated over small batches differ from those of the same {_ROWS} rows in one batch", _STATE
    if not find_gap(trial, _large, _small).is_real:
        cause = f"{_MEAN_OF_MEANS}: the adapter's `weight` is not the number of labels that its `loss` is the mean of"
        if trial.subject.task.declared is not None:
            cause = "a loss that is not a mean over rows or labels: a row in a small batch weighs more"
        if not _has_unequal_labels(trial) and find_gap(trial, partial(_large, rows=2), partial(_small, rows=2)).is_real:
            message, cause = "the gradient of a row in a batch of one differs from that of the same row in a larger batch", _ALONE
    return _finding(trial, gap, message, cause, "accumulated_gradient_differs")


def _judge_means(trial: Trial) -> Evidence:
    gap = find_gap(trial, _large, _small)
    if gap.is_real and (synced := with_its_copies(trial, _split(trial, _batch(trial), _ROWS // 2))) is not None:
        gap = find_gap(synced, _large, _small)
    if gap.is_real:
        message = (
            f"gradients accumulated over two batches of {_ROWS // 2} rows differ from those of all {_ROWS} rows in one batch"
        )
        whole = _batch(trial)
        side_term = _judge_side_term(trial, gap, message, whole, _split(trial, whole, _ROWS // 2))
        return (
            side_term or _judge_weighted_mean(trial, gap) or _finding(trial, gap, message, _STATE, "accumulated_gradient_differs")
        )
    sound = _sound(gap, "gradients accumulated over small batches equal those of one large batch", _shown(trial))
    accumulated = trial.config.accumulate_grad_batches
    if accumulated == 1 or not lines_of(trial.subject.task.signature):
        return sound
    unequal = find_gap(trial, _large_unequal, _small_unequal)
    if not unequal.is_real:
        return sound
    message = (
        f"{loss_name(trial)} averages over each batch, so with `accumulate_grad_batches` {accumulated} labels in short rows weigh more than "
        "others"
    )
    return _finding(trial, unequal, message, _MEAN_OF_MEANS, "mean_of_means", Status.WARN)


def _judge_weighted_mean(trial: Trial, gap: Gap) -> Evidence | None:
    """The verdict where the gradient of the large batch is a weighted mean of those of the small ones: labels have weights of their own.

    As of a detector, which divides by its boxes, or of ``cross_entropy(weight=...)``, which divides by the weights of the classes.
    """
    whole = _batch(trial, 2 * _ROWS)  # so many that halves share their classes, which tells weights that the batch itself makes
    parts = _split(trial, whole, _ROWS)
    found = [observe(trial, [part]).gradients for part in (whole, *parts)]
    found.append(observe(trial, parts, accumulate=2).gradients)
    wanted, *given, together = (torch.cat([each[name].double().flatten() for name in found[0]]).cpu() for each in found)
    if (torch.stack(given).mean(0) - together).norm() > _SAME_SUM * together.norm():
        return None  # one part changes what the other gives
    weights = torch.linalg.lstsq(torch.stack(given, 1), wanted[:, None]).solution[:, 0]
    left = wanted - torch.stack(given, 1) @ weights
    if not (
        left.norm() <= _SAME_SUM * wanted.norm() and bool((weights > 0).all()) and abs(float(weights.sum()) - 1) <= _SAME_SUM
    ):
        return None
    accumulated = trial.config.accumulate_grad_batches
    if accumulated == 1:
        return Evidence.ok(
            _NAME, "the gradient of a large batch is a weighted mean of those of small ones", counterexample=_shown(trial)
        )
    message = (
        f"{loss_name(trial)} divides by what the labels of a batch weigh, so with `accumulate_grad_batches` {accumulated} labels in a batch "
        "that weighs little count more than others"
    )
    return _finding(trial, gap, message, _MEAN_OF_WEIGHTED, "mean_of_means", Status.WARN)


def _judge_manual(trial: Trial, every: int) -> Evidence:
    if every == 1:
        message = "each batch takes a separate step, and no gradient of the batch before is left"
        return Evidence.ok(_NAME, message, counterexample=_shown(trial))
    count = 2 * every
    whole = _batch(trial, count)
    gap = find_gap(trial, partial(_step_of_wholes, every, whole), partial(_step_of_parts, every, whole))
    if gap.is_real:
        message = f"{loss_name(trial)} takes a step every {every} batches, and its gradient differs from that of all their rows in one batch"
        cause = f"opt.zero_grad() at every batch instead of after every step, or {_STATE}"
        # A gradient that is cleared in between does not show at the logits, but in that the batches do not add up.
        adds_up = not find_gap(
            trial, partial(_step_of_parts, every, whole), partial(_mean_of_steps_of_one_part, every, whole)
        ).is_real
        side_term = _judge_side_term(trial, gap, message, whole, parts_of(trial, every, whole)) if adds_up else None
        return side_term or _finding(trial, gap, message, cause, "accumulated_gradient_differs")
    batch = _with_unequal_rows(trial, count)
    if lines_of(trial.subject.task.signature):
        unequal = find_gap(trial, partial(_step_of_wholes, every, batch), partial(_step_of_parts, every, batch))
        if unequal.is_real:
            message = (
                f"{loss_name(trial)} takes a step every {every} batches over the mean of the batch means, so labels in short rows weigh more "
                "than others"
            )
            cause = f"{_MEAN_OF_MEANS}; sum the losses, and divide the gradients by the number of labels at the step"
            return _finding(trial, unequal, message, cause, "mean_of_means")
    return _judge_scale(trial, gap, every)


def _judge_several(trial: Trial) -> Evidence:
    """The verdict on several optimizers, whose steps are taken at different moments, so that only what one leaves to the other is judged."""
    left, who = left_over_from_optimizer(trial, _batch(trial, 2)), loss_name(trial)
    if left is None:
        message = "no optimizer takes a step with a gradient that was used before"
        return Evidence.ok(_NAME, message, counterexample=_shown(trial))
    which = f"`{left.names[0]}`{and_others(len(left.names) - 1, 'parameter')}"
    message = f"{who} does not clear the gradient of {which} after a step: it is still there at the next"
    status, code, cause = Status.FAIL, "gradient_not_cleared", "manual optimisation without opt.zero_grad()"
    if left.by_another:
        message = f"the loss of another optimizer leaves a gradient in {which}, and {who} does not clear it before their own step"
        status, code = Status.WARN, "gradient_of_another_loss"
        cause = (
            "a backward pass adds to the gradient of every parameter that it reaches: call zero_grad() before the loss of the next optimizer, "
            "or toggle_optimizer(); fine where both losses are to train these parameters"
        )
    facts = {"parameters": list(left.names)}
    return Evidence(
        _NAME, status, message, counterexample=_shown(trial), module=left.names[0], cause=cause, details=facts, code=code
    )


def _judge_scale(trial: Trial, gap: Gap, every: int) -> Evidence:
    """A warning where the batches of a step are added up and not averaged, or the first step of an epoch holds those left from the last."""
    who = loss_name(trial)
    if is_summed(trial, every, _batch(trial)):
        message = f"{who} takes a step every {every} batches with the sum of their gradients, {every} times that of one batch"
        cause = f"a loss that is not divided by {every}: manual_backward(loss / {every})"
        return _finding(trial, gap, message, cause, "accumulated_sum", Status.WARN)
    more = left_over_from_epoch(trial, every, _batch(trial))
    if more > 1:
        message = (
            f"{who} takes a step every {every} batches; the batches left at the end of an epoch are added to the first step of the next, whose "
            f"gradient is {more:.3g} times as large"
        )
        cause = "a step if (batch_idx + 1) % n == 0: take one at the last batch of an epoch too (self.trainer.is_last_batch), or clear there"
        return _finding(trial, gap, message, cause, "left_over_from_epoch", Status.WARN)
    return _sound(gap, f"gradients accumulated over {every} batches equal those of one large batch", _shown(trial))


def _judge_side_term(trial: Trial, gap: Gap, message: str, whole: Batch, parts: list[Batch]) -> Evidence | None:
    """A warning where the part of the loss that goes through the logits is a mean, and only another part is not."""
    if not is_mean_through_logits(trial, whole, parts):
        return None
    message = f"{message}, because of a term of the loss beside that of the logits: it depends on which rows share a batch"
    return _finding(trial, gap, message, SIDE_TERM, "side_term_depends_on_batch", Status.WARN)


def _say_left_over(trial: Trial, every: int) -> tuple[str, str, str]:
    """Message, cause and code."""
    if is_first_gradient_left(trial, every):
        return (
            f"{loss_name(trial)} does not clear gradients: that of the first step is still there at the second",
            "manual optimisation without opt.zero_grad(), or an optimizer_zero_grad that does nothing",
            "gradient_not_cleared",
        )
    return (
        f"{loss_name(trial)} keeps state between batches: the gradient of the second step depends on the first by more than the weights",
        "a cache, a counter or a running value in a plain attribute, which is not in the state dict",
        "state_between_batches",
    )


def _sound(gap: Gap, message: str, counterexample: str) -> Evidence:
    return Evidence.ok(_NAME, message, (gap.measured, gap.bound, "between the gradients"), counterexample=counterexample)


def _finding(trial: Trial, gap: Gap, message: str, cause: str, code: str, status: Status = Status.FAIL) -> Evidence:
    module = gap.where if len(gap.differing) == 1 else ""
    may_follow = status is Status.FAIL and code != "gradient_not_cleared"  # which is wrong whatever the loss is
    owner = first_failure(_OWNERS, trial) if may_follow else None
    name = "" if owner is None else owner[0]
    if may_follow and not name and reduction(trial).status is Status.WARN:
        name = "training_loss[reduction]"  # which is not sure that it is no mean on purpose, and says all the same what is wrong
    facts = {"parameters": list(gap.differing), **(owned_by(name) if name else {})}
    return Evidence.judged(
        _NAME,
        status,
        message,
        (gap.measured, gap.bound, "between the gradients"),
        counterexample=_shown(trial),
        module=module,
        cause=cause,
        details=facts,
        code=code,
        investigate=partial(_where_rows_meet, trial) if code == "accumulated_gradient_differs" else None,
    )


def _where_rows_meet(trial: Trial) -> str:
    whole = _batch(trial)
    found = where_rows_meet(trial, disable_stochastic_layers, whole, _split(trial, whole, _ROWS // 2)[0])
    return found if found != "training_step" else ""  # which may part by what an earlier batch left


def _large(trial: Trial, vary: Variation = UNVARIED, rows: int = _ROWS) -> Quantities:
    return observe(trial, [_batch(trial, rows)], vary=vary).gradients


def _small(trial: Trial, vary: Variation = UNVARIED, rows: int = _ROWS) -> Quantities:
    return observe(trial, _split(trial, _batch(trial, rows), rows // 2), accumulate=2, vary=vary).gradients


def _large_unequal(trial: Trial, vary: Variation = UNVARIED) -> Quantities:
    return observe(trial, [_with_unequal_rows(trial)], vary=vary).gradients


def _small_unequal(trial: Trial, vary: Variation = UNVARIED) -> Quantities:
    batches = _split(trial, _with_unequal_rows(trial), _ROWS // 2 if _has_unequal_labels(trial) else _ROWS - 1)
    return observe(trial, batches, accumulate=2, vary=vary).gradients


def _step_of_wholes(every: int, whole: Batch, trial: Trial, vary: Variation = UNVARIED) -> Quantities:
    """The gradient of a step over several batches, each of which holds all the rows: whatever the step divides by, that of their mean."""
    return observe(trial, [_in_dtype(trial, whole)] * every, vary=vary).gradients


def _step_of_parts(every: int, whole: Batch, trial: Trial, vary: Variation = UNVARIED) -> Quantities:
    """The gradient of a step over several batches that share the rows."""
    return observe(trial, parts_of(trial, every, _in_dtype(trial, whole)), vary=vary).gradients


def _mean_of_steps_of_one_part(every: int, whole: Batch, trial: Trial, vary: Variation = UNVARIED) -> Quantities:
    """The mean of the gradients of several steps, each over one part of the rows again and again."""
    steps = [observe(trial, [part] * every, vary=vary).gradients for part in parts_of(trial, every, _in_dtype(trial, whole))]
    return {name: torch.stack([step[name] for step in steps]).mean(0) for name in steps[0]}


def _in_dtype(trial: Trial, batch: Batch) -> Batch:
    """The batch as the trial's model takes it, which may be in float64."""
    return to_device(batch, trial.subject.device, trial.subject.dtype)


def _batch(trial: Trial, count: int = _ROWS) -> Batch:
    return fully_labelled(trial.subject, _sizes(trial, count))


def _sizes(trial: Trial, count: int = _ROWS) -> Sizes:
    return replace(trial.subject.typical, batch=count)


def _has_unequal_labels(trial: Trial) -> bool:
    """Whether batches may hold unequal numbers of labels, and are weighted by them: not where a loss has several parts, or is a function."""
    signature = trial.subject.task.signature
    is_weighted = trial.is_own or (len(signature.taught) == 1 and not signature.whole_loss)
    return is_weighted and bool(lines_of(signature))


def _with_unequal_rows(trial: Trial, count: int = _ROWS) -> Batch:
    """A batch whose later half of rows is shorter, where the task has rows of several labels."""
    task, signature, batch = trial.subject.task, trial.subject.task.signature, _batch(trial, count)
    if task.declared is None and "input_ids" in batch and not _is_of_target(signature):
        total = batch["input_ids"].shape[1]
        lengths = [total] * (count // 2) + [max(2, total // 3)] * (count - count // 2)
        on_host = {name: tensor.cpu() for name, tensor in batch.items()}
        return {name: tensor.to(batch["labels"].device) for name, tensor in pad_right(task, on_host, lengths, total).items()}
    for line in lines_of(signature) if _has_unequal_labels(trial) else ():
        name = signature.label_name(line.output)
        labels = batch[name].clone()
        at = labels.movedim(line.along, 1)  # a view
        at[count // 2 :, max(1, at.shape[1] // 3) :] = IGNORED
        batch = {**batch, name: labels}
    return batch


def _is_of_target(signature: Signature) -> bool:
    """Whether labels are along another text than the one that is read."""
    return not set(signature.axes_of("labels")) <= set(signature.axes_of("input_ids"))


def _split(trial: Trial, batch: Batch, first: int) -> list[Batch]:
    signature = trial.subject.task.signature
    return [signature.rows(batch, slice(0, first)), signature.rows(batch, slice(first, None))]


def _shown(trial: Trial) -> str:
    return f"{_sizes(trial).describe(trial.subject.task)}, dropout off"


def is_mean_through_logits(trial: Trial, whole: Batch, parts: Sequence[Batch]) -> bool:
    """Whether the gradient that the loss sends back to the logits of a batch is the mean of those of its parts.

    Where it is and the gradients of the weights differ all the same, the difference comes from a term that does not go through the logits.

    Args:
        trial: The model.
        whole: The batch.
        parts: Its parts, equally large and with equally many labels.
    """
    names = {output.name for output in trial.subject.task.signature.taught}
    if not (trial.is_own and names) or any(observe(trial, [batch]).slopes.keys() != names for batch in (whole, *parts)):
        return False
    return not find_gap(trial, partial(_logit_gradient_of_whole, whole), partial(_logit_gradient_of_parts, parts)).is_real


def _logit_gradient_of_whole(whole: Batch, trial: Trial, vary: Variation = UNVARIED) -> Quantities:
    return _observed(trial, whole, vary).slopes


def _logit_gradient_of_parts(parts: Sequence[Batch], trial: Trial, vary: Variation = UNVARIED) -> Quantities:
    found = [_observed(trial, part, vary).slopes for part in parts]
    return {name: torch.cat([slopes[name] for slopes in found]) / len(parts) for name in found[0]}


def _observed(trial: Trial, batch: Batch, vary: Variation) -> Observation:
    return observe(trial, [to_device(batch, trial.subject.device, trial.subject.dtype)], vary=vary)
