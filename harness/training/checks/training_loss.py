"""Whether a loss is averaged over the labels, and leaves out the positions labelled -100."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from harness.batches import IGNORED, Batch, Sizes, pad_right
from harness.errors import UserError
from harness.evidence import Evidence, Status
from harness.owners import owned_by
from harness.tasks import TaskSpec, TaskType
from harness.training.checks.gradient_noise import Gap, Quantities, find_gap
from harness.training.checks.labels import aligned, fully_labelled
from harness.training.checks.loss_targets import targets
from harness.training.checks.observation import Observation, loss_name, observe
from harness.training.trial import UNVARIED, Trial, Variation
from harness.user_code import raised
from harness.wording import and_others

_NAME = "training_loss"
_ROWS = 4
_LOSS = "the loss"

_NAME = "training_loss"
_ROWS = 4
_FAINT = 0.05
"""Share of the largest gradient below which a position is not trained towards anything: what is left of it may be an auxiliary term."""


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
        batch = repeated(trial.subject.batch(sizes))
        return quantities(observe(trial, [batch], vary=vary))

    gap = find_gap(trial, once, twice)
    counterexample = f"{sizes.describe(trial.subject.task)}, each row twice"
    if not gap.is_real:
        message = "the loss is averaged over the labels: with each row twice, loss and gradient are the same"
        return Evidence(_NAME, Status.OK, message, gap.measured, gap.bound, "between the losses or gradients", counterexample)
    how, cause, code = _say_how(once(trial), twice(trial))
    return Evidence(
        _NAME,
        Status.FAIL,
        f"{loss_name(trial)} is not averaged over the labels: with each row in the batch twice, {how}",
        gap.measured,
        gap.bound,
        "between the losses or gradients",
        counterexample,
        module=culprit(gap),
        cause=cause,
        code=code,
    )


def repeated(batch: Batch) -> Batch:
    """Every row twice."""
    return {name: torch.cat([tensor, tensor]) for name, tensor in batch.items()}


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


def ignored_labels(trial: Trial) -> Evidence:
    """Positions labelled -100 contribute neither loss nor gradient, in the middle of a text and at its padding.

    First nothing may flow back to their logits. Then two batches are compared whose labels are the same, one with the labels of a row all in
    one copy of it, one with half of them in each of two copies: their mean is the same, unless what was left out is counted.
    """
    subject = trial.subject
    if _length(subject.task, subject.typical) < 3:
        return Evidence(_NAME, Status.SKIPPED, "sequences are too short to ignore some of their labels")
    sizes = replace(subject.typical, batch=_ROWS)
    padded = _with_gaps(subject.task, fully_labelled(subject, sizes), sizes)
    try:
        seen = observe(trial, [padded])
    except Exception as error:
        if isinstance(error, UserError):
            raise
        observe(trial, [fully_labelled(subject, sizes)])  # what raises on any batch is no matter of the ignored labels
        return Evidence(
            _NAME,
            Status.FAIL,
            f"{loss_name(trial)} raises an error on labels of -100: {raised(error)}",
            counterexample=sizes.describe(subject.task),
            cause="an ignore_index other than -100, such as pad_token_id, or labels used as an index before they are masked",
            code="raises_on_ignored_labels",
        )
    found = None if seen.slope is None else _judge_slope(trial, seen.slope, padded, sizes)
    found = found or _judge_mean(trial, sizes)
    if found.status is not Status.OK and targets(trial).status is Status.FAIL:
        return replace(found, details=owned_by("training_loss[targets]"))
    return found


def _judge_slope(trial: Trial, slope: Tensor, batch: Batch, sizes: Sizes) -> Evidence | None:
    """A finding where something flows back to a position without a label."""
    task = trial.subject.task
    slopes, labels = aligned(task, slope, batch["labels"])
    sizes_of = slopes.abs().amax(-1)
    trained = (sizes_of > _FAINT * sizes_of.max()) & (labels == IGNORED)
    if not bool(trained.any()):
        return None
    padding = _is_padding(task, batch, labels)
    at_padding = bool((trained & padding).any())
    first = (trained & padding if at_padding else trained).nonzero()[0].tolist()
    row, position = first[0], first[1] + (task.task_type is TaskType.CAUSAL_LM)
    target = int(slopes[first[0], first[1]].argmin())
    # A language model's step may make its labels from the input ids; then only what it does at the padding is wrong for certain.
    status = Status.WARN if task.task_type is TaskType.CAUSAL_LM and not at_padding else Status.FAIL
    return Evidence(
        _NAME,
        status,
        f"{loss_name(trial)} trains position {position} of row {row}, which is {'padding' if at_padding else 'labelled -100'}, towards class "
        f"{target}{and_others(int(trained.sum()) - 1, 'position')}",
        float(trained.sum()),
        0.0,
        "positions",
        f"{sizes.describe(task)}, row={row}, position={position}",
        cause="labels taken from `input_ids` instead of the batch's `labels`, labels clamped to 0, or a loss without ignore_index=-100",
        code="trains_ignored_positions",
    )


def _judge_mean(trial: Trial, sizes: Sizes) -> Evidence:
    def together(trial: Trial, vary: Variation = UNVARIED) -> Quantities:
        batch, first, second = _halves(trial, sizes)
        both = torch.where(first == IGNORED, second, first)
        return quantities(observe(trial, [{**batch, "labels": both}], vary=vary))

    def apart(trial: Trial, vary: Variation = UNVARIED) -> Quantities:
        batch, first, second = _halves(trial, sizes)
        twice = {name: torch.cat([tensor, tensor]) for name, tensor in batch.items()}
        return quantities(observe(trial, [{**twice, "labels": torch.cat([first, second])}], vary=vary))

    gap = find_gap(trial, together, apart)
    counterexample = f"{sizes.describe(trial.subject.task)}, half of the labels -100"
    if not gap.is_real:
        message = "positions labelled -100 contribute neither loss nor gradient"
        return Evidence(_NAME, Status.OK, message, gap.measured, gap.bound, "between the losses or gradients", counterexample)
    return Evidence(
        _NAME,
        Status.FAIL,
        f"{loss_name(trial)} counts positions labelled -100 in its mean: with as many ignored labels added, the loss changes",
        gap.measured,
        gap.bound,
        "between the losses or gradients",
        counterexample,
        cause="a mean over all positions after the ignored ones were set to zero: divide by the number of labels that are not -100",
        code="averages_over_ignored_positions",
    )


def _length(task: TaskSpec, sizes: Sizes) -> int:
    return sizes.target_seq if task.is_seq2seq else sizes.seq


def _with_gaps(task: TaskSpec, batch: Batch, sizes: Sizes) -> Batch:
    """The batch with padding at the end of its last rows, and labels left out in the middle of the others."""
    length = _length(task, sizes)
    short = max(2, length // 2)
    if task.is_seq2seq:
        labels = batch["labels"].clone()
        labels[_ROWS // 2 :, short:] = IGNORED
        batch = {**batch, "labels": labels}
    else:
        device = batch["labels"].device
        on_host = {name: tensor.cpu() for name, tensor in batch.items()}
        lengths = [length] * (_ROWS // 2) + [short] * (_ROWS - _ROWS // 2)
        batch = {name: tensor.to(device) for name, tensor in pad_right(task, on_host, lengths, length).items()}
    labels = batch["labels"].clone()
    labels[: _ROWS // 2, 1:short] = IGNORED
    return {**batch, "labels": labels}


def _is_padding(task: TaskSpec, batch: Batch, labels: Tensor) -> Tensor:
    """Which of the labels' positions are padding."""
    if task.is_seq2seq:
        return torch.zeros_like(labels, dtype=torch.bool)
    real = batch["attention_mask"].bool()
    return ~(real[:, 1:] if task.task_type is TaskType.CAUSAL_LM else real)


def _halves(trial: Trial, sizes: Sizes) -> tuple[Batch, Tensor, Tensor]:
    """A batch, and its labels at every other position, and at those between, as many of one as of the other."""
    batch = fully_labelled(trial.subject, sizes)
    labels = batch["labels"]
    begin = int(trial.subject.task.task_type is TaskType.CAUSAL_LM)
    count = (labels.shape[1] - begin) // 2
    first, second = (torch.full_like(labels, IGNORED) for _ in range(2))
    first[:, begin : begin + 2 * count : 2] = labels[:, begin : begin + 2 * count : 2]
    second[:, begin + 1 : begin + 2 * count : 2] = labels[:, begin + 1 : begin + 2 * count : 2]
    return batch, first, second
