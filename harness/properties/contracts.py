"""What a model promises about its inputs and outputs: shapes, sizes, memory layouts, and inputs that are not written to."""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from harness.adapters import same_shape
from harness.batches import Batch, Sizes, largest_sizes, smallest_sizes
from harness.errors import OutputError
from harness.evidence import Blame, Evidence, Status
from harness.owners import left_to
from harness.properties.calling import ModelRaisedError, mode
from harness.properties.misshapen import where_misshapen, where_shaped
from harness.properties.noise import Run, first_failure, judge_equal, remembered
from harness.properties.prerequisites import (
    LENGTH_FIRST_CAUSE,
    READS_LENGTH_FIRST,
    SHAPE_OWNER,
    Unusable,
    cause_of_raising,
    is_lookup,
)
from harness.properties.subject import Subject
from harness.properties.tracing import (
    calls_of,
    finite,
    first_broken,
    first_divergence,
    probing,
    whole,
)
from harness.properties.vocabulary import unreadable_token
from harness.properties.watched_lines import writing_line
from harness.tasks.axes import BATCH, fits_shape, shape_text

LAYOUTS = ("transposed", "strided", "offset", "expanded", "channels_last")
"""Memory layouts that inputs arrive in."""

_WHOLE_NUMBERS = "an argmax or a comparison inside the model, which no gradient passes: return the scores, or declare them first"


def shape_contract(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """The logits have the promised shape at these sizes.

    An image size other than the declared one may be refused with an exception; if it is taken, the logits must have the shape.
    """
    name = "shape_contract"
    expected = sizes.logits_shape(subject.task)
    counterexample = f"{sizes.describe(subject.task)}, seed={seed}"
    try:
        seen = subject.seen_at(sizes, seed)
        logits = seen.like if seen else subject.logits(subject.batch(sizes, seed))
    except ModelRaisedError as error:
        return _raises_at(subject, sizes, seed, error)
    if same_shape(logits, expected):
        return Evidence.ok(name, "logits have the promised shape", counterexample=counterexample)
    if fits_shape(logits.shape, expected):
        return Evidence.failed(
            name,
            f"logits are {logits.dtype} at {sizes.describe(subject.task)}, expected floating point",
            counterexample=counterexample,
            cause=_WHOLE_NUMBERS,
            code="wrong_dtype",
        )
    turned = subject.reads_length_first
    return Evidence.failed(
        name,
        f"logits have shape {tuple(logits.shape)} ({logits.dtype}) at {sizes.describe(subject.task)}, "
        f"expected {shape_text(expected)}, which is ({', '.join(subject.task.facts.output)}){f': {READS_LENGTH_FIRST}' if turned else ''}",
        counterexample=counterexample,
        investigate=lambda: where_shaped(subject, sizes, seed),
        cause=LENGTH_FIRST_CAUSE
        if turned
        else "a squeeze() without dim, a leftover transpose, a head of the wrong size, or a missing pooling",
        code="wrong_shape",
    )


def _raises_at(subject: Subject, sizes: Sizes, seed: int, error: ModelRaisedError) -> Evidence:
    """The verdict on sizes at which forward raises."""
    name, counterexample = "shape_contract", f"{sizes.describe(subject.task)}, seed={seed}"
    if sizes.image is not None:
        return Evidence.ok(name, f"refuses images of {sizes.image[0]}x{sizes.image[1]}", counterexample=counterexample)
    if token := (subject.task.is_text or is_lookup(error)) and unreadable_token(subject, subject.batch(sizes, seed)):
        return Evidence.warned(
            name,
            f"forward raises at {sizes.describe(subject.task)}, as it cannot read {token} (see full_vocabulary): {error}",
            counterexample=counterexample,
            module=error.module,
            code="unreadable_token",
        )
    turned = subject.reads_length_first
    if not turned and (least := _least_length(subject, sizes, seed)):
        return Evidence.failed(
            name,
            f"forward raises at every length below {least}: {error}",
            counterexample=counterexample,
            module=error.module,
            cause=f"a convolution or pooling wider than the sequence: pad short sequences in forward, or declare "
            f"`min_seq_len` {least} in the config",
            code="too_short",
        )
    found = where_misshapen(subject, sizes, seed)
    return Evidence.failed(
        name,
        f"forward raises at {sizes.describe(subject.task)}{f', as {READS_LENGTH_FIRST}' if turned else ''}: {error}",
        counterexample=counterexample,
        module=found or error.module,
        place=getattr(found, "place", ""),
        cause=LENGTH_FIRST_CAUSE if turned else cause_of_raising(subject, error, sizes),
        code="raises",
    )


def _least_length(subject: Subject, sizes: Sizes, seed: int) -> int:
    """The length from which on forward takes those that are tried, where it raises at all shorter ones; 0 where that is not so."""
    if not subject.task.is_text:
        return 0
    first, typical, longest = subject.task.min_seq_len, subject.typical.seq, subject.task.max_seq_len or 1

    def takes(length: int) -> bool:
        try:
            subject.logits(subject.batch(replace(sizes, seq=length), seed))
        except ModelRaisedError:
            return False
        return True

    if not takes(longest):
        return 0
    taken = [takes(length) for length in range(first, typical + 1)]
    least = first + taken.count(False)
    if not any(taken):
        raising, least = typical, longest
        while least - raising > 1:
            middle = (raising + least) // 2
            raising, least = (raising, middle) if takes(middle) else (middle, least)
    return least if taken == sorted(taken) and sizes.seq < least else 0


def full_length(subject: Subject, batch: int, seed: int = 0) -> Evidence:
    """The model works at the whole declared length, and its logits there have the right shape and are finite."""
    longest, axes = subject.task.max_seq_len, subject.task.signature.free_axes
    declared = " and ".join(f"{axis.most} along `{axis.name}`" for axis in axes if axis.most is not None and axis.name != BATCH)
    at = f"the declared max_seq_len of {longest} tokens" if longest else f"the declared `max` of {declared}"
    cause = f"a position table, mask buffer or rotary cache shorter than {'max_seq_len' if longest else 'that'}, often by one"
    # Of a large model a call of as many rows as were asked at the beginning, which need not be repeated.
    rows = min(batch, 2) if subject.is_large else batch
    found = _judge_full_length(subject, largest_sizes(subject.task, rows), seed, at, cause)
    if found.status is not Status.FAIL:
        return found
    shorter = shape_contract(subject, smallest_sizes(subject.task) if batch == 1 else subject.typical)
    if shorter.status is not Status.FAIL:
        return found
    return left_to("full_length", "shape_contract", shorter.message, code=shorter.code)


def _judge_full_length(subject: Subject, sizes: Sizes, seed: int, at: str, cause: str) -> Evidence:
    expected, counterexample = sizes.logits_shape(subject.task), f"{sizes.describe(subject.task)}, seed={seed}"
    finding = partial(Evidence, "full_length", Status.FAIL, counterexample=counterexample, cause=cause)
    seen = subject.seen_at(sizes, seed) if subject.is_large else None
    if seen and seen.finite and same_shape(seen.like, expected):
        return replace(finding(f"works at {at}"), status=Status.OK, cause="")
    try:
        logits = subject.logits(batch := subject.batch(sizes, seed))
    except ModelRaisedError as error:
        if token := unreadable_token(subject, subject.batch(sizes, seed)):
            message = f"forward raises at {at}, as it cannot read {token} (see full_vocabulary): {error}"
            return replace(finding(message, module=error.module, code="raises"), status=Status.WARN)
        return finding(f"forward raises at {at}: {error}", module=error.module, code="raises")
    if fits_shape(logits.shape, expected) and not logits.is_floating_point():
        message = f"logits are {logits.dtype} at {at}, expected floating point"
        return finding(message, cause=_WHOLE_NUMBERS, code="wrong_dtype")
    if not same_shape(logits, expected):
        message = f"logits have shape {tuple(logits.shape)} at {at}, expected {shape_text(expected)}"
        return finding(message, code="wrong_shape")
    if not finite(logits):
        calls = calls_of(subject.model, partial(subject.logits, batch))
        module = first_broken(calls, lambda tensor: not finite(tensor))
        return finding(f"logits are not finite at {at}", module=module, code="not_finite")
    return replace(finding(f"works at {at}"), status=Status.OK, cause="")


def inputs_unchanged(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """Forward does not write into the tensors it is given, in either mode."""
    return first_failure(_inputs_kept(subject, sizes, train, seed) for train in (False, True))


def _inputs_kept(subject: Subject, sizes: Sizes, train: bool, seed: int) -> Evidence:
    name = "inputs_unchanged"
    batch = subject.batch(sizes, seed)
    before = {field: (tensor.clone(), tensor._version) for field, tensor in batch.items()}
    with mode(subject.model, train), subject.giving_originals():
        subject.logits(batch)
    changed = [
        field
        for field, (value, version) in before.items()
        if batch[field]._version != version or not torch.equal(value, batch[field])
    ]
    counterexample = f"{sizes.describe(subject.task)}, {'train' if train else 'eval'} mode, seed={seed}"
    if not changed:
        return Evidence.ok(name, "the inputs are unchanged", counterexample=counterexample)
    return Evidence.failed(
        name,
        f"forward writes into `{changed[0]}`, the caller's own tensor",
        counterexample=counterexample,
        cause="an in-place operation (`x += …`, `relu_`, `masked_fill_`, an index assignment) on an input that was not cloned",
        investigate=lambda: _writer(subject, subject.batch(sizes, seed), changed[0], train),
        code="writes_into_inputs",
    )


def memory_layout(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """The same values in every other memory layout give the same logits; a model that refuses one warns, for it computes nothing wrong."""
    with subject.giving_originals():
        base = subject.batch(sizes, seed)
        reference = remembered(subject, lambda model: subject.logits(base, model))
        found = first_failure(_layout(subject, sizes, layout, base, reference, seed) for layout in _layouts_of(base))
    if found.status is Status.OK or _inputs_kept(subject, sizes, False, seed).status is not Status.FAIL:
        return found
    at, told = found.counterexample, "forward writes into its inputs"
    return left_to("memory_layout", "inputs_unchanged", told, counterexample=at, code="writes_into_inputs")


def _layouts_of(batch: Batch) -> list[str]:
    """The layouts that some tensor of a batch can have."""
    return [layout for layout in LAYOUTS if any(_relaid(tensor, layout) is not tensor for tensor in batch.values())] or ["offset"]


def _layout(subject: Subject, sizes: Sizes, layout: str, base: Batch, reference: Run, seed: int) -> Evidence:
    if layout == "expanded":
        base = {field: tensor[:1].expand(tensor.shape).contiguous() if tensor.ndim else tensor for field, tensor in base.items()}
    relaid = {field: _relaid(tensor, layout) for field, tensor in base.items()}
    counterexample = f"{sizes.describe(subject.task)}, layout={layout}, seed={seed}"

    def compare(model: nn.Module) -> tuple[Tensor, Tensor]:
        usual = subject.logits(base, model) if layout == "expanded" else reference(model)
        return usual, subject.logits(relaid, model)

    def culprit(model: nn.Module) -> str:
        usual, other = (calls_of(model, partial(subject.logits, batch)) for batch in (base, relaid))
        return first_divergence(usual, other, whole)

    try:
        return judge_equal(
            subject,
            "memory_layout",
            compare,
            f"the logits change when the same inputs arrive {layout} in memory",
            counterexample,
            "a view, as_strided or data_ptr trick that assumes contiguous inputs",
            culprit,
            code="depends_on_layout",
        )
    except ModelRaisedError as error:
        if subject.prerequisite_failure.raises:  # in any layout
            raise
        return Evidence.warned(
            "memory_layout",
            f"forward raises when the same inputs arrive {layout} in memory: {error}",
            counterexample=counterexample,
            module=error.module,
            cause="`.view` on an input that may be non-contiguous; `.reshape` takes every layout",
            code="raises_on_layout",
        )


def _relaid(tensor: Tensor, layout: str) -> Tensor:
    """The tensor's values in another layout; tensors that have no such layout stay as they are."""
    if tensor.ndim == 0:
        return tensor
    if layout == "channels_last":
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
    if layout == "transposed" and tensor.ndim >= 2:
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "strided" and tensor.ndim >= 1:
        return torch.stack((tensor, tensor), -1).flatten(-2)[..., ::2]
    if layout == "offset":
        return torch.cat((tensor[:1], tensor))[1:]
    if layout == "expanded":
        return tensor[:1].expand(tensor.shape)
    return tensor


def _writer(subject: Subject, batch: Batch, field: str, train: bool) -> Blame:
    """The innermost module during whose call an input was first written to, and the line that did it."""
    with (
        mode(subject.model, train),
        subject.giving_originals(),
        probing(subject.model, lambda: batch[field]._version) as probes,
    ):
        subject.logits(batch)
    module = next((probe.module for probe in probes if probe.before != probe.after), "")
    with mode(subject.model, train), subject.giving_originals():
        return Blame(module, writing_line(lambda: subject.logits(batch), batch[field]))


def unusable(subject: Subject) -> Unusable:
    """Whether a typical call raises or its logits have the wrong shape, so that no other property can be judged; found out once."""
    if subject.shared.unusable is None:
        subject.shared.unusable = _find_unusable(subject)
    return subject.shared.unusable


def _find_unusable(subject: Subject) -> Unusable:
    """Judges the shape of the logits at typical sizes; a token that cannot be read is a failure of ``full_vocabulary``."""
    if _is_usable(subject):
        return Unusable()
    try:
        found = shape_contract(subject, subject.typical)
    except OutputError as error:
        return Unusable(SHAPE_OWNER, str(error))
    if found.status is Status.OK:
        return Unusable()
    if found.status is Status.WARN:
        return Unusable("full_vocabulary", found.message.replace(" (see full_vocabulary)", ""))
    return Unusable(SHAPE_OWNER, found.message)


def _is_usable(subject: Subject) -> bool:
    """Whether one call on a fresh copy returns logits of the right shape; nothing more is asked of a model that is sound."""
    try:
        logits = subject.raw_logits(subject.batch(), subject.fresh())
    except (ModelRaisedError, OutputError):
        return False
    return same_shape(logits, subject.typical.logits_shape(subject.task))


def call_of(subject: Subject) -> str:
    """How the model is called, such as ``called as Net.forward(x) with `pixel_values` ([3, 32, 32])``."""
    plan = subject.adapter.plan(subject.model)
    signature = f"{type(subject.model).__name__}.forward{inspect.signature(subject.model.forward)}"
    size = f" ({list(subject.task.image_size)})" if subject.task.image_size else ""
    return (
        f"called as {signature} with {'the whole batch' if plan.whole else ', '.join(f'`{name}`' for name in plan.fields)}{size}"
    )
