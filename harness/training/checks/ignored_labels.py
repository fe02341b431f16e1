"""Which positions a loss leaves out: those labelled -100, but not the token that ends a text, even if it has the id of padding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from harness.batches import IGNORED, Batch, Sizes, pad_right, to_device
from harness.errors import UserError
from harness.evidence import Evidence, Status
from harness.owners import left_to, owned_by
from harness.properties.contents import end_token
from harness.properties.large_tensors import largest_absolute
from harness.properties.padding_in_training import with_more_padding
from harness.tasks.kinds import mean_loss
from harness.tasks.signature import Output, Signature
from harness.tasks.teaching import Line, lines_of, targeted
from harness.tasks.values import Ids, MaskOf
from harness.training.checks.gradient_noise import Quantities, find_gap
from harness.training.checks.labels import aligned, fully_labelled, labels_in
from harness.training.checks.loss_targets import targets
from harness.training.checks.observation import loss_name, observe
from harness.training.checks.training_loss import culprit, quantities, repeated
from harness.training.trial import UNVARIED, Trial, Variation
from harness.user_code import raised
from harness.wording import and_others

_NAME = "training_loss"
_ROWS = 4
_FAINT = 0.05
"""Share of the largest gradient below which a position is not trained towards anything: what is left of it may be an auxiliary term."""

_OF_PADDING = 0.05
"""Share of a gradient that padding may change."""

_PARALLEL = 0.999
"""Cosine from which two gradients have one direction."""


def ignored_labels(trial: Trial) -> Evidence:
    """Positions labelled -100 contribute neither loss nor gradient, in the middle of a text and at its padding.

    First nothing may flow back to their logits. Then two batches are compared whose labels are the same, one with the labels of a row all in
    one copy of it, one with half of them in each of two copies: their mean is the same, unless what was left out is counted.
    """
    lines = lines_of(trial.subject.task.signature, of_maps=True)
    found = [_judge(trial, line) if line.may_end else _judge_map(trial, line) for line in lines]
    return max(found, key=lambda evidence: evidence.status.severity)


def _judge(trial: Trial, line: Line) -> Evidence:
    subject = trial.subject
    sizes = replace(subject.typical, batch=_ROWS)
    if _length(trial, line, sizes) < 3:
        return Evidence.skipped(_NAME, "sequences are too short to ignore some of their labels")
    padded = _with_gaps(trial, line, sizes)
    try:
        seen = observe(trial, [padded])
    except Exception as error:
        if isinstance(error, UserError):
            raise
        observe(trial, [fully_labelled(subject, sizes)])  # what raises on any batch is no matter of the ignored labels
        return Evidence.failed(
            _NAME,
            f"{loss_name(trial)} raises an error on labels of -100: {raised(error)}",
            counterexample=sizes.describe(subject.task),
            cause="an ignore_index other than -100, such as pad_token_id, or labels used as an index before they are masked",
            code="raises_on_ignored_labels",
        )
    slope = seen.slopes.get(line.output.name)
    found = None if slope is None else _judge_slope(trial, line, slope, padded, sizes)
    found = found or (
        None if slope is None else _judge_smoothing(trial, line, seen.values[line.output.name], slope, padded, sizes)
    )
    found = found or _judge_mean(trial, line, sizes)
    if found.status is not Status.OK and targets(trial).status is Status.FAIL:
        return replace(found, details=owned_by("training_loss[targets]"))
    return found


def _judge_map(trial: Trial, line: Line) -> Evidence:
    """The mean of labels of which none need be left out, such as those of pixels, judged where the loss ignores -100 and is a mean.

    A loss may ignore another label or none, and one that is no mean over places (such as an overlap) changes with what is left out.
    """
    subject, signature = trial.subject, trial.subject.task.signature
    sizes = replace(subject.typical, batch=_ROWS)
    if _length(trial, line, sizes) < 3:
        return Evidence.skipped(_NAME, f"`{line.axis}` is too short to ignore some of the labels")
    batch, first, _ = _halves(trial, line, sizes)
    try:
        seen = observe(trial, [{**batch, signature.label_name(line.output): first}])
    except Exception as error:
        if isinstance(error, UserError):
            raise
        observe(trial, [batch])  # what raises on any batch is no matter of the ignored labels
        return Evidence.skipped(_NAME, f"{loss_name(trial)} takes no labels of -100")
    slope = seen.slopes.get(line.output.name)
    if slope is None or bool(aligned(signature, line.output, slope, first)[0][first == IGNORED].any()):
        return Evidence.skipped(_NAME, f"{loss_name(trial)} does not ignore labels of -100")
    classes = -1 if line.output.classes is None else line.output.classes
    mean = float(mean_loss("cross_entropy", seen.values[line.output.name], first, classes))
    if seen.loss is not None and float(seen.loss) > mean * float((first[0] != IGNORED).sum()) ** 0.5:
        return Evidence.skipped(_NAME, f"{loss_name(trial)} is a sum over places, not a mean (see initial_loss)")
    return _judge_mean(trial, line, sizes)


def _judge_slope(trial: Trial, line: Line, slope: Tensor, batch: Batch, sizes: Sizes) -> Evidence | None:
    """A finding where something flows back to a position without a label."""
    signature = trial.subject.task.signature
    slopes, labels = aligned(signature, line.output, slope, labels_in(signature, line.output, batch))
    sizes_of = slopes.abs().amax(-1)
    trained = (sizes_of > _FAINT * sizes_of.max()) & (labels == IGNORED)
    if not bool(trained.any()):
        return None
    is_shifted = signature.next_of(line.output) is not None
    padding = _is_padding(signature, line, batch, labels)
    at_padding = bool((trained & padding).any())
    first = (trained & padding if at_padding else trained).nonzero()[0].tolist()
    row, position = first[0], first[line.along] + is_shifted
    target = int(slopes[tuple(first)].argmin())
    # A language model's step may make its labels from the input ids; then only what it does at the padding is wrong for certain.
    status = Status.WARN if is_shifted and not at_padding else Status.FAIL
    return Evidence.judged(
        _NAME,
        status,
        f"{loss_name(trial)} trains position {position} of row {row}, which is {'padding' if at_padding else 'labelled -100'}, towards class "
        f"{target}{and_others(int(trained.sum()) - 1, 'position')}",
        (int(trained.sum()), 0, "positions"),
        counterexample=f"{sizes.describe(trial.subject.task)}, row={row}, position={position}",
        cause="labels taken from `input_ids` instead of the batch's `labels`, labels clamped to 0, or a loss without ignore_index=-100",
        code="trains_padding" if at_padding else "trains_ignored_positions",
    )


def _judge_smoothing(trial: Trial, line: Line, value: Tensor, slope: Tensor, batch: Batch, sizes: Sizes) -> Evidence | None:
    """A finding where what flows back to every position without a label is the gradient of a uniform label, as label smoothing gives."""
    signature = trial.subject.task.signature
    labels = labels_in(signature, line.output, batch)
    slopes, ignored = aligned(signature, line.output, slope, labels)
    scores, _ = aligned(signature, line.output, value, labels)
    ignored = ignored == IGNORED
    pulled, uniform = (each[ignored].double() for each in (slopes, scores.softmax(-1) - 1 / scores.shape[-1]))
    if largest_absolute(pulled) <= torch.finfo(slope.dtype).eps * largest_absolute(slopes):
        return None
    along = torch.nn.functional.cosine_similarity(pulled, uniform, dim=-1)
    if not bool((along > _PARALLEL).all()):
        return None  # it may be an auxiliary term
    return Evidence.failed(
        _NAME,
        f"{loss_name(trial)} smooths the labels of positions labelled -100: their scores are pulled towards equal shares",
        (int(ignored.sum()), 0, "positions"),
        counterexample=sizes.describe(trial.subject.task),
        cause="a mean of all log-probabilities beside the loss of the labels: leave out the positions without a label there too, or use "
        "cross_entropy(..., label_smoothing=...)",
        code="smooths_ignored_positions",
    )


def _judge_mean(trial: Trial, line: Line, sizes: Sizes) -> Evidence:
    signature = trial.subject.task.signature
    name = signature.label_name(line.output)

    def together(trial: Trial, vary: Variation = UNVARIED) -> Quantities:
        batch, first, second = _halves(trial, line, sizes)
        both = torch.where(first == IGNORED, second, first)
        return quantities(observe(trial, [{**batch, name: both}], vary=vary))

    def apart(trial: Trial, vary: Variation = UNVARIED) -> Quantities:
        batch, first, second = _halves(trial, line, sizes)
        return quantities(observe(trial, [{**repeated(signature, batch), name: torch.cat([first, second])}], vary=vary))

    def halved(trial: Trial, vary: Variation = UNVARIED) -> Quantities:
        return {name: value / 2 for name, value in together(trial, vary).items()}

    gap = find_gap(trial, together, apart)
    counterexample = f"{sizes.describe(trial.subject.task)}, half of the labels -100"
    if gap.is_real and not line.may_end and find_gap(trial, halved, apart).is_real:
        return Evidence.skipped(_NAME, f"{loss_name(trial)} is not a mean over the places along `{line.axis}`")
    if not gap.is_real:
        message = "positions labelled -100 contribute neither loss nor gradient"
        return Evidence.ok(
            _NAME, message, (gap.measured, gap.bound, "between the losses or gradients"), counterexample=counterexample
        )
    return Evidence.failed(
        _NAME,
        f"{loss_name(trial)} counts positions labelled -100 in its mean: with as many ignored labels added, the loss changes",
        (gap.measured, gap.bound, "between the losses or gradients"),
        counterexample=counterexample,
        cause="a mean over all positions after the ignored ones were set to zero: divide by the number of labels that are not -100",
        code="averages_over_ignored_positions",
    )


def _length(trial: Trial, line: Line, sizes: Sizes) -> int:
    task = trial.subject.task
    return task.signature.complete(sizes.by_axis(task))[line.axis]


def _with_gaps(trial: Trial, line: Line, sizes: Sizes) -> Batch:
    """A batch with padding at the end of its last rows, and labels left out in the middle of the others."""
    task, signature = trial.subject.task, trial.subject.task.signature
    batch, name = fully_labelled(trial.subject, sizes), signature.label_name(line.output)
    length = _length(trial, line, sizes)
    short = max(2, length // 2)
    lengths = [length] * (_ROWS // 2) + [short] * (_ROWS - _ROWS // 2)
    if task.declared is None and line.axis in signature.axes_of("input_ids"):
        device = batch[name].device
        on_host = {field: tensor.cpu() for field, tensor in batch.items()}
        batch = {field: tensor.to(device) for field, tensor in pad_right(task, on_host, lengths, length).items()}
    elif signature.axes[line.axis].padding and signature.axes[line.axis].is_free:
        told = signature.make_batch(sizes.by_axis(task), lengths={line.axis: torch.tensor(lengths)})
        tells = [each.name for each in signature.inputs if each.values.axis == line.axis]
        batch = {**batch, **{field: told[field].to(batch[field]) for field in tells}}
    labels = batch[name].clone()
    at = labels.movedim(line.along, 1)  # a view
    at[_ROWS // 2 :, short:] = IGNORED
    at[: _ROWS // 2, 1:short] = IGNORED
    return {**batch, name: labels}


def _is_padding(signature: Signature, line: Line, batch: Batch, labels: Tensor) -> Tensor:
    """Which of the labels' positions are padding, as a mask among the inputs says."""
    for each in signature.inputs:
        if isinstance(each.values, MaskOf) and each.values.axis == line.axis and each.name in batch:
            real = batch[each.name].bool() ^ each.values.inverted
            real = real[:, 1:] if signature.next_of(line.output) is not None else real
            shape = [1] * labels.ndim
            shape[0], shape[line.along] = real.shape
            return (~real).reshape(shape).expand_as(labels)
    return torch.zeros_like(labels, dtype=torch.bool)


def _halves(trial: Trial, line: Line, sizes: Sizes) -> tuple[Batch, Tensor, Tensor]:
    """A batch, and its labels at every other position, and at those between, as many of one as of the other."""
    signature = trial.subject.task.signature
    batch = fully_labelled(trial.subject, sizes)
    labels = labels_in(signature, line.output, batch)
    begin = int(signature.next_of(line.output) is not None)
    count = (labels.shape[line.along] - begin) // 2
    first, second = (torch.full_like(labels, IGNORED) for _ in range(2))
    for half, start in ((first, begin), (second, begin + 1)):
        every_other = slice(start, begin + 2 * count, 2)
        half.movedim(line.along, 0)[every_other] = labels.movedim(line.along, 0)[every_other]
    return batch, first, second


_ROWS_THAT_END = 3
_SILENT = 1e-5
"""Share of the largest gradient that is none."""


def padding(trial: Trial) -> Evidence:
    """More padding behind the same rows changes neither the loss of a training step nor what it sends back.

    A small difference is left alone: of a penalty that is meant as a mean over all places.
    """
    if not trial.is_own:
        return Evidence.skipped(_NAME, "the loss is not made by a training step (see train_mode[padding])")
    rows, reason = with_more_padding(trial.subject)
    if rows is None or not rows.has_loss:
        return Evidence.skipped(_NAME, reason or "labels at padding cannot be told from others")
    try:
        reads_padding = rows.reads_padding
    except UserError as error:
        return Evidence.skipped(_NAME, f"forward cannot be called with rows that are all shorter than the batch: {error}")
    if reads_padding:
        return left_to(_NAME, "padding_ignored", "padding changes the outputs in eval mode too", code="reads_padding")

    def step(batch: Batch, trial: Trial, vary: Variation = UNVARIED) -> Quantities:
        given = to_device(batch, trial.subject.device, trial.subject.dtype)
        return observe(trial, [given], vary=vary).gradients

    much, little = (partial(step, batch) for batch, _ in rows.both)
    gap, at = find_gap(trial, much, little), rows.counterexample.removeprefix("train mode, ")
    message = "padding behind the rows does not change what the training step sends back"
    if gap.is_real:
        one, other = (torch.cat([each.flatten().double() for each in found(trial).values()]) for found in (much, little))
        share = float((one - other).norm() / other.norm().clamp(min=torch.finfo(other.dtype).tiny))
        if share > _OF_PADDING:
            owner = next((name for name, found in _told(trial) if found.status in (Status.FAIL, Status.WARN)), "")
            return Evidence.warned(
                _NAME,
                f"the gradient of {loss_name(trial)} changes by {share:.0%} with padding behind the rows, though no output does",
                (share, _OF_PADDING, "of the gradient"),
                counterexample=at,
                module=culprit(gap),
                cause="a term of the loss that counts padded places: a mean or a second loss without the mask",
                details=owned_by(owner) if owner else {},
                code="padding_in_loss",
            )
        message = f"padding behind the rows changes only {share:.1%} of what the training step sends back"
    return Evidence.ok(_NAME, message, (gap.measured, gap.bound, "between the gradients"), counterexample=at)


def _told(trial: Trial) -> Iterator[tuple[str, Evidence]]:
    """What else tells that places are taught wrongly, which changes with padding too."""
    signature = trial.subject.task.signature
    if targeted(signature):
        yield "training_loss[targets]", targets(trial)
    if lines_of(signature):
        yield "training_loss[ignored_labels]", ignored_labels(trial)


def end_of_text(trial: Trial) -> Evidence:
    """The last token of each text, which ends it, sends a gradient to the scores before it."""
    signature = trial.subject.task.signature
    found = next(((each, told) for each in signature.taught if (told := signature.next_of(each)) is not None), None)
    if found is None:
        return Evidence.skipped(_NAME, "no output scores the next token")
    output, (axis, name) = found
    values = next(each.values for each in signature.inputs if each.name == name)
    assert isinstance(values, Ids)
    end = end_token(trial.subject.model, values.count) if isinstance(values.count, int) else None
    if end is None:
        return Evidence.skipped(_NAME, "no attribute or setting of the model, such as `eos_token_id`, says which id ends a text")
    batch = _ended(trial, output, axis, name, end)
    slope = observe(trial, [batch]).slopes.get(output.name)
    if slope is None:
        return Evidence.skipped(_NAME, "the training step's scores cannot be told apart from other tensors")
    slopes, _ = aligned(signature, output, slope, labels_in(signature, output, batch))
    sizes = slopes.abs().amax(-1)
    share = float(sizes[:, -1].min() / sizes.max())
    is_pad = end == values.pad
    counterexample = f"rows without padding that end in id {end}{', which is that of padding' if is_pad else ''}"
    if share > _SILENT:
        return Evidence.ok(
            _NAME, f"the token that ends a text, id {end}, is taught", (share, _SILENT, ""), counterexample=counterexample
        )
    return Evidence.failed(
        _NAME,
        f"{loss_name(trial)} ignores the token that ends a text, id {end}, so the model never learns to stop"
        + (": it is the id of padding too" if is_pad else ""),
        (share, _SILENT, "of the largest gradient"),
        counterexample=counterexample,
        cause="labels that are ignored where they equal the id of padding (`labels[labels == pad] = -100`, `ignore_index=pad`): ignore what the "
        "attention mask says is padding, or give padding its own id",
        code="end_of_text_ignored",
    )


def _ended(trial: Trial, output: Output, axis: str, name: str, end: int) -> Batch:
    """Rows without padding, each of which ends in the token that ends a text."""
    subject, signature = trial.subject, trial.subject.task.signature
    batch = fully_labelled(subject, replace(subject.typical, batch=_ROWS_THAT_END))
    for each in signature.inputs:
        if isinstance(each.values, MaskOf) and each.values.axis == axis and each.name in batch:
            batch[each.name] = torch.full_like(batch[each.name], 0 if each.values.inverted else 1)
    for key in dict.fromkeys((name, signature.label_name(output))):
        if key in batch:
            batch[key] = batch[key].clone()
            batch[key][:, -1] = end
    return batch
