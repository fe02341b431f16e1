"""Values of logits and gradients: finite at typical and at extreme inputs, and in batches with padded rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor

from harness.batches import IGNORED, Batch, Sizes, joined, with_rows
from harness.evidence import Evidence, Status
from harness.owners import left_to, owners_of
from harness.properties.calling import BackwardRaisedError, ModelRaisedError, NoGradientError, mode
from harness.properties.gradient_tracing import first_bad_gradient
from harness.properties.independence import ends_along
from harness.properties.large_tensors import all_finite, reading_gradients
from harness.properties.model_variants import has_running_statistics, mixed_with_typical
from harness.properties.noise import first_failure
from harness.properties.padding import no_padding, padded, placed, tells_padding, unknown_elements
from harness.properties.prerequisites import FINITE_OWNER
from harness.properties.subject import Subject
from harness.properties.tracing import calls_of, finite, first_broken
from harness.runtime import seeded
from harness.tasks.axes import BATCH, Axis
from harness.tasks.values import EXTREMES as EXTREMES
from harness.tasks.values import Normal
from harness.wording import and_others
from harness.wording import joined as joined_words

_LARGE = 1e4
_LARGE_PIXEL = 255.0
_LARGE_NORMAL = 99.0
"""Of values that are declared to be normally distributed, in standard deviations. Not 100: an input may be its own label, and
-100 as a label counts for nothing."""

_EXTREMES_OWNER = "finite_output[extremes]"

_CONTENTS = ("typical", *EXTREMES)

_BEYOND = ("constant_large", "constant_negative")
"""Contents whose number is this project's choice, where values have no range."""

_IMAGE_AXES = 4
"""From so many axes on, numbers are taken for the pixels of images."""


def finite_output(subject: Subject, sizes: Sizes, contents: tuple[str, ...] = ("typical",), seed: int = 0) -> Evidence:
    """The logits hold neither NaN nor infinity.

    Args:
        subject: The model.
        sizes: Sizes of the batch.
        contents: What the inputs hold, one after the other: ``typical`` or any of ``EXTREMES``.
        seed: Seed of typical content.
    """
    shown = f"{sizes.describe(subject.task)}, seed={seed}"

    def hold(batch: Batch) -> bool:
        return _finite_forward(subject, batch, shown, "at extreme inputs").status is Status.OK

    suspects = _not_acquitted(subject, sizes, contents, seed, hold)
    return first_failure(_finite_at(subject, sizes, each, seed) for each in suspects) if suspects else _all_finite(shown)


def _not_acquitted(
    subject: Subject, sizes: Sizes, contents: tuple[str, ...], seed: int, hold: Callable[[Batch], bool]
) -> tuple[str, ...]:
    """The contents that have to be judged one by one: rows of several do not hold in one batch, or cannot share one."""
    batches = _told_apart(subject, sizes, contents, seed)
    most = max(1, with_rows(subject.task, sizes, sizes.batch * len(batches)).batch // sizes.batch)
    suspects: tuple[str, ...] = ()
    for start in range(0, len(batches), most):
        group = tuple(batches)[start : start + most]
        if len(group) == 1 or not hold(joined(subject.task, [batches[content] for content in group])):
            suspects += group
    return suspects


def _told_apart(subject: Subject, sizes: Sizes, contents: tuple[str, ...], seed: int) -> dict[str, Batch]:
    """A batch of each content, without those that are the same as an earlier one: of ids the smallest number is the first one too."""
    found: dict[str, Batch] = {}
    for content in contents:
        batch = extreme_batch(subject, sizes, content, seed)
        if not any(_is_same(batch, other) for other in found.values()):
            found[content] = batch
    return found


def _is_same(batch: Batch, other: Batch) -> bool:
    return all(isinstance(value, Tensor) and torch.equal(value, other[name]) for name, value in batch.items())


def finite_at_extremes(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """The logits are finite whatever the inputs hold; see ``finite_output``."""
    return finite_output(subject, sizes, EXTREMES, seed)


def fully_padded_row(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """A row that is all padding poisons neither the logits nor the gradients of its batch.

    Such rows come from empty texts and from filling up the last batch.
    """
    signature = subject.task.signature
    return first_failure(_empty_row(subject, sizes, axis, seed) for axis in signature.padded if axis.empty)


def _empty_row(subject: Subject, sizes: Sizes, axis: Axis, seed: int) -> Evidence:
    name, signature = "finite_output", subject.task.signature
    total = signature.complete(sizes.by_axis(subject.task))[axis.name]
    lengths = [total] * (sizes.batch - 1) + [0]
    counterexample = f"{sizes.describe(subject.task)}, lengths={lengths}, seed={seed}"
    if not tells_padding(subject, axis.name):
        return Evidence.skipped(name, "forward takes no `attention_mask`")
    real = placed("right", lengths, total).to(subject.device)
    batch = padded(signature, subject.batch(sizes, seed), axis.name, real)
    evidence = _finite_forward(subject, batch, counterexample, "at a batch with a row that is all padding")
    if evidence.status is not Status.OK:
        return evidence
    if BATCH in signature.main.axes and not ends_along(signature, signature.main, axis.name, 0, {}) and batch["labels"].ndim > 1:
        batch["labels"][-1] = IGNORED  # what a row without a source should be written as is not said
    bad = _bad_gradients(subject, batch)
    # Gradients that are bad without such a row too are the matter of gradient_flow.
    if not bad or _bad_gradients(subject, subject.batch(sizes, seed)):
        return evidence
    return Evidence.failed(
        name,
        f"a row that is all padding makes the gradient of `{bad[0]}` NaN or infinite{and_others(len(bad) - 1, 'parameter')}",
        (len(bad), 0, "parameters"),
        counterexample=counterexample,
        investigate=lambda: _source_of_bad_gradients(subject, batch) or bad[0],
        cause="a softmax over a row of -inf, or a mean that divides by the number of real tokens",
        code="gradient_not_finite",
    )


def finite_gradients(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """Every gradient is finite in train mode, whatever the inputs hold; see ``finite_output``."""
    suspects = _not_acquitted(subject, sizes, _CONTENTS, seed, lambda batch: not _bad_gradients(subject, batch))
    if not suspects:
        counterexample = f"{sizes.describe(subject.task)}, seed={seed}"
        return Evidence.ok("gradient_flow", "every gradient is finite", (0, 0, "parameters"), counterexample=counterexample)
    return _worst(_finite_gradients_at(subject, sizes, content, seed) for content in suspects)


def _worst(found: Iterable[Evidence]) -> Evidence:
    """The first failure, rather of this property's own than one that is left to another."""
    left: Evidence | None = None
    for evidence in found:
        last = evidence
        if evidence.status is Status.FAIL and not owners_of(evidence):
            return evidence
        left = left or (evidence if evidence.status is Status.FAIL else None)
    return left or last


def finite_gradients_by_content(subject: Subject, seed: int = 0) -> Evidence:
    """The same at typical sizes for a batch of each content by itself, as an operation over the rows may divide by what they differ by.

    Then with padded rows, the padding of which teaches nothing.
    """
    contents = _told_apart(subject, subject.typical, _CONTENTS, seed)
    found = _worst(_finite_gradients_at(subject, subject.typical, content, seed) for content in contents)
    if found.status is Status.FAIL:
        return found
    padded_rows = (_finite_gradients_padded(subject, axis, seed) for axis in subject.task.signature.padded)
    return next((failure for failure in padded_rows if failure is not None), found)


def _finite_gradients_padded(subject: Subject, axis: Axis, seed: int) -> Evidence | None:
    """A failure where a step on padded rows has a loss and yet no gradient; ``None`` where it has one, or rows cannot be padded."""
    signature, sizes = subject.task.signature, subject.typical
    total = signature.complete(sizes.by_axis(subject.task))[axis.name]
    least = max(1, axis.least, total // 2)
    if least >= total or no_padding(subject, axis) or unknown_elements(signature, axis) or BATCH not in signature.main.axes:
        return None
    lengths = [total, *[least] * (sizes.batch - 1)]
    real = placed(axis.padding or "right", lengths, total, seed).to(subject.device)
    batch = padded(signature, subject.batch(sizes, seed), axis.name, real)
    bad = _bad_gradients(subject, batch)
    if not bad or not _has_finite_loss(subject, batch):  # without a loss, it reads padding, or `padding_ignored` fails
        return None
    return Evidence.failed(
        "gradient_flow",
        f"the gradient of `{bad[0]}` is NaN or infinite in a batch with padded rows, whose loss is finite"
        f"{and_others(len(bad) - 1, 'parameter')}",
        (len(bad), 0, "parameters"),
        counterexample=f"{sizes.describe(subject.task)}, lengths={lengths}, padding: {axis.padding}, seed={seed}",
        investigate=lambda: _first_broken(subject, batch) or _source_of_bad_gradients(subject, batch) or bad[0],
        cause="a padded query that may look at nothing: its softmax over -inf is NaN, and 0 times NaN is NaN in every weight's gradient",
        code="gradient_not_finite",
    )


def _has_finite_loss(subject: Subject, batch: Batch) -> bool:
    model = subject.fresh()
    with mode(model, train=True), seeded(0):
        return bool(torch.isfinite(subject.backward(batch, model)))


def _finite_at(subject: Subject, sizes: Sizes, content: str, seed: int) -> Evidence:
    counterexample = f"{sizes.describe(subject.task)}, content={content}, seed={seed}"
    if content == "typical" and (seen := subject.seen_at(sizes, seed)) and seen.finite and seen.like.numel():
        return _all_finite(counterexample)
    batch = extreme_batch(subject, sizes, content, seed)
    return _finite_forward(subject, batch, counterexample, f"at {_spoken(subject, batch, content)}")


def _all_finite(counterexample: str) -> Evidence:
    return Evidence.ok("finite_output", "logits are finite", (0, 0, "elements"), counterexample=counterexample)


def _finite_gradients_at(subject: Subject, sizes: Sizes, content: str, seed: int) -> Evidence:
    name = "gradient_flow"
    counterexample = f"{sizes.describe(subject.task)}, content={content}, seed={seed}"
    batch = extreme_batch(subject, sizes, content, seed)
    if content != "typical" and has_running_statistics(subject.model):
        # A batch of equal rows has no variance to divide by, and no training meets one.
        batch = mixed_with_typical(batch, subject.batch(sizes, seed))
    where = _spoken(subject, batch, content)
    try:
        bad = _bad_gradients(subject, batch)
    except ModelRaisedError as error:
        if content == "typical" or isinstance(error, BackwardRaisedError):
            raise
        message = f"forward raises at {where}: {error}"
        code = "raises"  # the same finding, whoever owns it
        if owner := _owner_of_logits(subject, batch, content):
            return left_to(name, owner, message, counterexample=counterexample, code=code)
        return Evidence.failed(name, message, counterexample=counterexample, module=error.module, code=code)
    if not bad:
        return Evidence.ok(name, "every gradient is finite", counterexample=counterexample)
    message = f"the gradient of `{bad[0]}` is NaN or infinite at {where}{and_others(len(bad) - 1, 'parameter')}"
    if owner := _owner_of_logits(subject, batch, content):
        return left_to(
            name, owner, f"{message}, where the logits are not finite", counterexample=counterexample, code="not_finite"
        )
    return Evidence.failed(
        name,
        message,
        (len(bad), 0, "parameters"),
        counterexample=counterexample,
        investigate=lambda: _source_of_bad_gradients(subject, batch) or bad[0],
        cause="sqrt, norm, log or a division whose argument reaches zero; a `where` that hides the bad branch in forward only",
        code="gradient_not_finite",
    )


def _owner_of_logits(subject: Subject, batch: Batch, content: str) -> str:
    """The test that fails for logits of a batch that are not finite; empty where they are, or where it may not see it."""
    try:
        if all_finite(subject.logits(batch)):
            return ""
    except ModelRaisedError:
        pass
    if subject.prerequisite_failure.not_finite:
        return FINITE_OWNER
    if content == "typical":
        return ""
    fails = any(finite_at_extremes(subject, sizes, seed).status is Status.FAIL for sizes, seed in subject.reach.anchors)
    return _EXTREMES_OWNER if fails else ""


def extreme_batch(subject: Subject, sizes: Sizes, content: str, seed: int) -> Batch:
    """A batch whose inputs hold the given content."""
    batch = subject.batch(sizes, seed)
    if content == "typical":
        return batch
    for each in subject.task.signature.inputs:
        if each.name in batch:
            large = _LARGE_PIXEL if len(each.axes) >= _IMAGE_AXES else (_LARGE_NORMAL if subject.task.declared else _LARGE)
            batch[each.name] = each.values.extreme(batch[each.name], content, large)
    return subject.task.signature.relabelled(batch)


def _finite_forward(subject: Subject, batch: Batch, counterexample: str, where: str) -> Evidence:
    name = "finite_output"
    try:
        logits = subject.logits(batch)
    except ModelRaisedError as error:
        if subject.prerequisite_failure.raises:  # whatever the inputs hold
            raise
        return Evidence.failed(
            name, f"forward raises {where}: {error}", counterexample=counterexample, module=error.module, code="raises"
        )
    bad = int((~torch.isfinite(logits)).sum())
    if not bad:
        return _all_finite(counterexample)
    kind = "NaN" if bool(logits.isnan().any()) else "infinite"

    return Evidence.failed(
        name,
        f"{bad} of {logits.numel()} logits are {kind} {where}",
        (bad, 0, "elements"),
        counterexample=counterexample,
        cause="a division by zero, log or sqrt of a non-positive number, exp that overflows, or a softmax over a row of -inf",
        investigate=lambda: _first_broken(subject, batch),
        code="not_finite",
    )


def _first_broken(subject: Subject, batch: Batch) -> str:
    """The first module whose output is not finite; empty where there is none."""
    return first_broken(calls_of(subject.model, partial(subject.logits, batch)), lambda tensor: not finite(tensor))


def _bad_gradients(subject: Subject, batch: Batch) -> list[str]:
    """Names of the parameters whose gradient is not finite, after one backward in train mode; its state is left as it was."""
    model = subject.model
    # A buffer that no checkpoint holds is a cache, and how far it is filled may be a plain attribute that is not put back.
    saved = model.state_dict(keep_vars=True)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers() if name in saved}
    model.zero_grad(set_to_none=True)
    found: set[str] = set()

    def read(name: str, gradient: Tensor) -> None:
        if not all_finite(gradient):
            found.add(name)

    with mode(model, train=True), seeded(0), reading_gradients(model, read):
        try:
            loss = subject.backward(batch)
        except NoGradientError:
            return []
    bad = [name for name, _ in model.named_parameters() if name in found]
    if not bad and not bool(torch.isfinite(loss)):
        bad = ["loss"]
    model.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name in buffers and buffers[name].shape == buffer.shape:
                buffer.copy_(buffers[name])
    return bad


def _source_of_bad_gradients(subject: Subject, batch: Batch) -> str:
    model = subject.fresh()
    with mode(model, train=True), seeded(0):
        return first_bad_gradient(model, lambda: subject.backward(batch, model))


def _spoken(subject: Subject, batch: Batch, content: str) -> str:
    """The inputs of a content in words, with the number that the config's values do not limit."""
    said = f"{content.replace('_', ' ')} inputs"
    if content not in _BEYOND:
        return said
    free = [each.name for each in subject.task.signature.inputs if isinstance(each.values, Normal) and each.name in batch]
    numbers = [f"`{name}` is {float(batch[name].reshape(-1)[0]):g}" for name in free if batch[name].numel()]
    return f"{said} ({joined_words(numbers)} everywhere)" if numbers else said
