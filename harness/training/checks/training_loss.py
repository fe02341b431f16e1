"""Whether a loss is averaged over the labels, finite where they are of one class, and made of the outputs by their declared weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from harness.batches import IGNORED, Batch, shares_rows
from harness.errors import DivergedError, UserError
from harness.evidence import Evidence, Status
from harness.properties.places import placed_at
from harness.tasks.signature import Output, Signature
from harness.tasks.teaching import own_labels, targeted
from harness.tasks.values import Ids
from harness.training.checks.gradient_noise import Gap, Quantities, find_gap
from harness.training.checks.lines import loss_line
from harness.training.checks.observation import Observation, loss_name, observe
from harness.training.trial import UNVARIED, Trial, Variation
from harness.user_code import raised
from harness.wording import joined

_NAME = "training_loss"
_ROWS = 4
_LOSS = "the loss"
_COMPARES = "depends_on_batch"
_ONE_ROW = "a batch is one row"
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
        return Evidence.ok(_NAME, message, (gap.measured, gap.bound, _BETWEEN), counterexample=counterexample)
    how, cause, code = _say_how(once(trial), twice(trial))
    # Without labels there is no mean over them to keep to: a loss may be meant to compare rows, and nobody has said so.
    is_free = code == _COMPARES and not trial.subject.task.signature.label_names
    return Evidence.judged(
        _NAME,
        Status.WARN if is_free else Status.FAIL,
        f"{loss_name(trial)} is not averaged over the labels: with each row in the batch twice, {how}",
        (gap.measured, gap.bound, _BETWEEN),
        counterexample=counterexample,
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
        return Evidence.skipped(_NAME, f"no gradient reaches the model from {_ROWS} rows, so it is not known what is compared")
    if gap.is_real:
        return Evidence.ok(_NAME, "the loss compares the rows of a batch", (gap.measured, gap.bound, _BETWEEN), counterexample=at)
    return Evidence.failed(
        _NAME,
        f"{loss_name(trial)} compares no rows, though `loss` is declared `over: batch`: it is the mean of the losses of the batch's halves",
        (gap.measured, gap.bound, _BETWEEN),
        counterexample=at,
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
    if abs(ratio - 0.5) < _SAME_SHARE:
        cause = "a mean over the rows or labels that is divided by their number once more"
        return f"{what} halves, so larger batches take smaller steps", cause, "divided_twice"
    changed = f"{what} becomes {ratio:.3g} times as large"
    if abs(ratio - 1) < 0.05:
        changed = f"{what} changes by {abs(ratio - 1):.1%}" if abs(ratio - 1) > 0.0005 else f"{what} changes, though not in size"
    return (
        changed,
        "a term that depends on which rows are in the batch: statistics over the batch, pairs of rows, or a sum; where rows are meant to be "
        "compared, as by a contrastive loss, declare the loss with `over: batch`",
        _COMPARES,
    )


def _size(found: Quantities) -> float:
    if _LOSS in found:
        return float(found[_LOSS].abs())
    return float(torch.stack([_norm(tensor) for tensor in found.values()]).norm())


def _norm(tensor: Tensor) -> Tensor:
    return tensor.double().norm()


def one_class(trial: Trial) -> Evidence:
    """Loss and gradients are finite where all labels are of one class, ids the first and the last, and for one row, as may end an epoch."""
    batch, sizes = trial.subject.batch(), trial.subject.typical.describe(trial.subject.task)
    observe(trial, [batch])  # what a usual batch makes of it is the matter of others
    judged = 0
    for told, changed in (*_of_one_class(trial, batch), *_of_extreme_ids(trial, batch), *_of_one_row(trial, batch)):
        judged += 1
        counterexample = f"{sizes}, {told}"
        facts: dict[str, Any] = {
            "counterexample": counterexample,
            "cause": "a mean over rows of another class, a division by the number of positives, by a deviation over the batch or by a weight "
            "that is zero at an end of a table, or the logarithm of a share that is zero",
        }
        name = loss_name(trial)
        try:
            seen = observe(trial, [changed])
        except DivergedError as error:
            found = Evidence.failed(_NAME, f"{name} is not finite where {told}: {error}", code="not_finite", **facts)
            return placed_at(found, loss_line(trial, changed))
        except Exception as error:
            if told == _ONE_ROW:  # such as a batch norm, which has to have several: it says so, and training stops
                continue
            if isinstance(error, UserError):
                raise
            return Evidence.failed(_NAME, f"{name} raises where {told}: {raised(error)}", code="raises", **facts)
        bad = [path for path, gradient in seen.gradients.items() if not bool(torch.isfinite(gradient).all())]
        if bad or (seen.loss is not None and not bool(torch.isfinite(seen.loss).all())):
            what = f"the gradient of `{bad[0]}`" if bad else name
            return Evidence.failed(_NAME, f"{what} is not finite where {told}", code="gradient_not_finite", **facts)
    if not judged:
        return Evidence.skipped(_NAME, "no label is a class, or yes or no, and no row has an id")
    return Evidence.ok(
        _NAME,
        "the loss is finite where every label is of one class, for the first and last id, and for one row",
        counterexample=sizes,
    )


def _of_one_class(trial: Trial, batch: Batch) -> Iterator[tuple[str, Batch]]:
    """Labels that are all the first and all the last class that the batch has, of each output in turn."""
    for name in own_labels(trial.subject.task.signature):
        if name not in batch:
            continue
        for value in _classes(batch[name]):
            shown = f"every label of `{name}` is {value:g}"
            labels = torch.where(batch[name] == IGNORED, batch[name], torch.full_like(batch[name], value))
            yield shown, {**batch, name: labels}


def _of_extreme_ids(trial: Trial, batch: Batch) -> Iterator[tuple[str, Batch]]:
    """Ids that each row has one of, as a step of a diffusion: the last of all, with the first in one row."""
    for each in trial.subject.task.signature.inputs:
        size = each.values.count if isinstance(each.values, Ids) and each.values.pad is None else None
        if isinstance(size, int) and size > 1 and each.name in batch and batch[each.name].ndim == 1:
            ids = torch.full_like(batch[each.name], size - 1)
            ids[0] = 0
            yield f"`{each.name}` is 0 and {size - 1}", {**batch, each.name: ids}


def _of_one_row(trial: Trial, batch: Batch) -> Iterator[tuple[str, Batch]]:
    """A batch of one row, where rows are independent and a batch may have so few."""
    task = trial.subject.task
    sizes = replace(trial.subject.typical, batch=1)
    if shares_rows(task) and task.signature.allows(sizes.by_axis(task)):
        yield _ONE_ROW, task.signature.rows(batch, [0])


def _classes(labels: Tensor) -> tuple[float, ...]:
    """The first and the last class; none where labels are numbers."""
    real = labels[labels != IGNORED]
    if not real.numel():
        return ()
    if labels.is_floating_point():
        return (0.0, 1.0) if bool(((real == 0) | (real == 1)).all()) else ()
    return tuple(dict.fromkeys((float(real.min()), float(real.max()))))


_SAME_SHARE = 1e-2
"""Relative difference up to which two shares are the same: far above rounding, far below a weight that someone would choose."""


def weights(trial: Trial) -> Evidence:
    """The loss of each output counts as often, beside that of the others, as its weight declares.

    What the step sends back to an output is compared with the gradient of its own loss by name: where the one is a multiple of the other,
    the factor is the output's share. Only the ratios of the shares are judged, so that the whole may be scaled.
    """
    signature = trial.subject.task.signature
    batch = trial.subject.batch()
    seen = observe(trial, [batch])
    at = trial.subject.typical.describe(trial.subject.task)
    shares: dict[str, float] = {}
    for output in targeted(signature):
        value, slope = (each.get(output.name) for each in (seen.values, seen.slopes))
        share = None if value is None or slope is None else share_of(signature, output, value, slope, batch)
        if share is not None:
            shares[output.name] = share
    declared = {output.name: output.weight for output in signature.outputs if output.name in shares}
    if len(shares) < 2:
        message = f"{loss_name(trial)} trains outputs by other losses than those declared, so their shares cannot be compared"
        return Evidence.skipped(_NAME, message, counterexample=at)
    first = next(iter(shares))
    apart = {name: abs(shares[name] / shares[first] / (declared[name] / declared[first]) - 1) for name in shares}
    worst = max(apart, key=lambda name: apart[name])
    facts = {"shares": shares, "declared": declared}
    if apart[worst] <= _SAME_SHARE:
        message = f"the outputs have their declared shares in the loss: {_shown(declared)}"
        return Evidence.ok(_NAME, message, (apart[worst], _SAME_SHARE, "between the shares"), counterexample=at, details=facts)
    scale = declared[first] / shares[first]
    return Evidence.failed(
        _NAME,
        f"{loss_name(trial)} weighs its outputs as {_shown({name: share * scale for name, share in shares.items()})}, declared are "
        f"{_shown(declared)}",
        (apart[worst], _SAME_SHARE, "between the shares"),
        counterexample=at,
        cause="the weight of one output applied to another, a sum where the other losses are means, or a `weight` that was changed in one place",
        details=facts,
        code="other_weights",
    )


def share_of(signature: Signature, output: Output, value: Tensor, slope: Tensor, batch: Batch) -> float | None:
    """The factor of an output's own loss in that of a step; ``None`` where the step trains it by another loss.

    Args:
        signature: The signature.
        output: The output.
        value: Its value at the step.
        slope: What the step sent back to it.
        batch: The batch of the step.
    """
    with torch.enable_grad():
        leaf = value.detach().clone().requires_grad_()
        (own,) = torch.autograd.grad(signature.loss_of(output, leaf, batch), leaf)
    share = float((slope * own).sum() / own.square().sum())
    is_multiple = share > 0 and float((slope - share * own).norm()) <= _SAME_SHARE * float(slope.norm())
    return share if is_multiple else None


def is_trained_otherwise(trial: Trial, name: str, batch: Batch) -> bool:
    """Whether a step trains an output by another loss than that of its kind, such as the overlap of segments.

    Args:
        trial: The model.
        name: The output.
        batch: What the step learns.
    """
    seen, signature = observe(trial, [batch]), trial.subject.task.signature
    output, value, slope = (
        next(each for each in signature.outputs if each.name == name),
        seen.values.get(name),
        seen.slopes.get(name),
    )
    if value is None or slope is None or not bool(slope.any()):
        return False
    return share_of(signature, output, value, slope, batch) is None


def _shown(shares: dict[str, float]) -> str:
    return joined([f"`{name}` {share:.3g}" for name, share in shares.items()])
