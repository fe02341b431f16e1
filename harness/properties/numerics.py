"""Values of logits and gradients: finite at typical and at extreme inputs, and scores that no activation bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.adapters import make_adapter
from harness.batches import IGNORED, Batch, Sizes, joined, with_rows
from harness.evidence import Evidence, Status
from harness.properties.calling import ModelRaisedError, NoGradientError, mode
from harness.properties.gradient_tracing import first_bad_gradient, recording_graph
from harness.properties.independence import ends_along
from harness.properties.large_tensors import all_finite, reading_gradients
from harness.properties.model_variants import calibrated, has_running_statistics, mixed_with_typical
from harness.properties.noise import first_failure
from harness.properties.padding import padded, placed, tells_padding
from harness.properties.subject import Subject
from harness.properties.tracing import finite, first_broken, path_of, recording
from harness.runtime import seeded
from harness.tasks.axes import BATCH, Axis
from harness.tasks.kinds import SCORES, BinaryScores
from harness.tasks.values import EXTREMES as EXTREMES
from harness.wording import and_others

_LARGE = 1e4
_LARGE_PIXEL = 255.0
_LARGE_NORMAL = 100.0
"""Of values that are declared to be normally distributed: a hundred standard deviations."""

_CONTENTS = ("typical", *EXTREMES)

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
    if together := _together(subject, sizes, contents, seed):
        found = _finite_forward(subject, together, f"{sizes.describe(subject.task)}, seed={seed}", "at extreme inputs")
        if found.status is Status.OK:
            return found
    return first_failure(_finite_at(subject, sizes, content, seed) for content in contents)


def _together(subject: Subject, sizes: Sizes, contents: tuple[str, ...], seed: int) -> Batch | None:
    """The rows of all contents in one batch; ``None`` where rows cannot be shared, or would be too many."""
    rows = sizes.batch * len(contents)
    if len(contents) < 2 or with_rows(subject.task, sizes, rows).batch != rows:
        return None
    return joined(subject.task, [extreme_batch(subject, sizes, content, seed) for content in contents])


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
        return Evidence(name, Status.SKIPPED, "forward takes no `attention_mask`")
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
    return Evidence(
        name,
        Status.FAIL,
        f"a row that is all padding makes the gradient of `{bad[0]}` NaN or infinite{and_others(len(bad) - 1, 'parameter')}",
        measured=float(len(bad)),
        bound=0.0,
        unit="parameters",
        counterexample=counterexample,
        investigate=lambda: _source_of_bad_gradients(subject, batch) or bad[0],
        cause="a softmax over a row of -inf, or a mean that divides by the number of real tokens",
        code="gradient_not_finite",
    )


def finite_gradients(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """Every gradient is finite in train mode, whatever the inputs hold; see ``finite_output``."""
    together = _together(subject, sizes, _CONTENTS, seed)
    if together and not _bad_gradients(subject, together):
        counterexample = f"{sizes.describe(subject.task)}, seed={seed}"
        return Evidence("gradient_flow", Status.OK, "every gradient is finite", 0.0, 0.0, "parameters", counterexample)
    return first_failure(_finite_gradients_at(subject, sizes, content, seed) for content in _CONTENTS)


def finite_gradients_by_content(subject: Subject, seed: int = 0) -> Evidence:
    """The same at typical sizes for a batch of each content by itself, as an operation over the rows may divide by what they differ by."""
    return first_failure(_finite_gradients_at(subject, subject.typical, content, seed) for content in _CONTENTS)


def _finite_at(subject: Subject, sizes: Sizes, content: str, seed: int) -> Evidence:
    counterexample = f"{sizes.describe(subject.task)}, content={content}, seed={seed}"
    if content == "typical" and (seen := subject.seen_at(sizes, seed)) and seen.finite and seen.like.numel():
        return _all_finite(counterexample)
    batch = extreme_batch(subject, sizes, content, seed)
    return _finite_forward(subject, batch, counterexample, f"at {_spoken(content)} inputs")


def _all_finite(counterexample: str) -> Evidence:
    return Evidence("finite_output", Status.OK, "logits are finite", 0.0, 0.0, "elements", counterexample)


def _finite_gradients_at(subject: Subject, sizes: Sizes, content: str, seed: int) -> Evidence:
    name = "gradient_flow"
    counterexample = f"{sizes.describe(subject.task)}, content={content}, seed={seed}"
    batch = extreme_batch(subject, sizes, content, seed)
    if content != "typical" and has_running_statistics(subject.model):
        # A batch of equal rows has no variance to divide by, and no training meets one.
        batch = mixed_with_typical(batch, subject.batch(sizes, seed))
    bad = _bad_gradients(subject, batch)
    if not bad:
        return Evidence(name, Status.OK, "every gradient is finite", counterexample=counterexample)
    return Evidence(
        name,
        Status.FAIL,
        f"the gradient of `{bad[0]}` is NaN or infinite at {_spoken(content)} inputs{and_others(len(bad) - 1, 'parameter')}",
        measured=float(len(bad)),
        bound=0.0,
        unit="parameters",
        counterexample=counterexample,
        investigate=lambda: _source_of_bad_gradients(subject, batch) or bad[0],
        cause="sqrt, norm, log or a division whose argument reaches zero; a `where` that hides the bad branch in forward only",
        code="gradient_not_finite",
    )


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
        return Evidence(
            name,
            Status.FAIL,
            f"forward raises {where}: {error}",
            counterexample=counterexample,
            module=error.module,
            code="raises",
        )
    bad = int((~torch.isfinite(logits)).sum())
    if not bad and logits.numel():
        return _all_finite(counterexample)
    kind = "NaN" if bool(logits.isnan().any()) else "infinite"

    def culprit() -> str:
        with recording(subject.model, lines=True) as calls:
            subject.logits(batch)
        return first_broken(calls, lambda tensor: not finite(tensor))

    return Evidence(
        name,
        Status.FAIL,
        f"{bad} of {logits.numel()} logits are {kind} {where}",
        float(bad),
        0.0,
        "elements",
        counterexample,
        cause="a division by zero, log or sqrt of a non-positive number, exp that overflows, or a softmax over a row of -inf",
        investigate=culprit,
        code="not_finite",
    )


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


def _spoken(content: str) -> str:
    return content.replace("_", " ")


_NAME = "logit_range"
_BATCHES = 4

_SHAPE_ONLY = (
    "View",
    "UnsafeView",
    "ReshapeAlias",
    "Transpose",
    "Permute",
    "T",
    "Squeeze",
    "Unsqueeze",
    "Slice",
    "Select",
    "Clone",
    "ToCopy",
    "Expand",
    "Alias",
)
"""Operators that keep every value."""


@dataclass(frozen=True)
class _Activation:
    """An activation that bounds its output.

    Attributes:
        name: What people call it.
        lowest: The lowest value it gives.
        tells: What that means for scores.
        code: What kind of finding that is.
        cause: What to do about it.
    """

    name: str
    lowest: float
    tells: str
    code: str
    cause: str


_ONE_SIDED = "no class can be scored below {}, and no gradient reaches a score that is cut off"
_DROP = "an activation behind the last layer: return what goes into it"
_ACTIVATIONS = {
    "Relu": _Activation("a ReLU", 0.0, _ONE_SIDED.format("0"), "one_sided", _DROP),
    "Gelu": _Activation("a GELU", -0.17, _ONE_SIDED.format("-0.17"), "one_sided", _DROP),
    "Silu": _Activation("a SiLU", -0.28, _ONE_SIDED.format("-0.28"), "one_sided", _DROP),
    "Softplus": _Activation("a softplus", 0.0, "no class can be scored below 0", "one_sided", _DROP),
    "Softmax": _Activation(
        "a softmax",
        0.0,
        "it returns probabilities where logits are expected, and cross-entropy applies softmax a second time",
        "returns_probabilities",
        "return the logits, and apply softmax where probabilities are needed; log-probabilities are valid logits",
    ),
    "Sigmoid": _Activation(
        "a sigmoid",
        0.0,
        "it returns values between 0 and 1 where logits are expected, so cross-entropy can never give a class a high probability",
        "returns_probabilities",
        "return the logits, and apply the sigmoid where probabilities are needed",
    ),
}
"""By the name of their node in the autograd graph, without ``Backward0``."""

_TWICE = "it returns probabilities, while the loss of binary scores applies a sigmoid itself"


def logit_range(subject: Subject, seed: int = 0) -> Evidence:
    """No activation that bounds its output from below stands behind the scores of classes.

    The last operator on the way to the logits is read off the autograd graph, and the lowest of some logits confirms it. A model whose
    adapter or training step has a loss of its own may take probabilities on purpose, for which this is a warning.
    """
    counterexample = f"{_BATCHES} batches of {subject.typical.describe(subject.task)}, seed={seed}"
    if not isinstance(subject.task.signature.main.kind, SCORES):
        return Evidence(_NAME, Status.SKIPPED, f"output `{subject.task.signature.main.name}` is no scores")
    model = calibrated(subject)
    with torch.enable_grad(), recording_graph(model) as calls:
        logits = subject.logits_with_grad(subject.batch(seed=seed), model)
    node = _last_operator(logits)
    if node is None:
        return Evidence(_NAME, Status.SKIPPED, "no gradient reaches the logits, so the operation that computes them is unknown")
    found = _ACTIVATIONS.get(_kind(node))
    lowest = min(float(subject.logits(subject.batch(seed=seed + draw), model).min()) for draw in range(_BATCHES))
    if found is None or lowest < found.lowest - 1e-2:
        return Evidence(
            _NAME, Status.OK, "no activation bounds the logits from below", lowest, None, "lowest logit", counterexample
        )
    module = next((call.module for call in calls if any(_last_operator(t) is node for t in call.outputs)), "")
    tells = (
        _TWICE if found is _ACTIVATIONS["Sigmoid"] and isinstance(subject.task.signature.main.kind, BinaryScores) else found.tells
    )
    return Evidence(
        _NAME,
        Status.WARN if _has_own_loss(subject) else Status.FAIL,
        f"forward ends in {found.name}: {tells}",
        lowest,
        None,
        "lowest logit",
        counterexample,
        "" if module == path_of("") else module,
        found.cause,
        code=found.code,
    )


def _last_operator(tensor: Tensor) -> Any:
    """The node that computed a tensor's values; what only rearranges them is passed over."""
    node: Any = tensor.grad_fn
    while node is not None and _kind(node) in _SHAPE_ONLY and node.next_functions:
        node = node.next_functions[0][0]
    return node


def _kind(node: Any) -> str:
    """``Relu`` for ``ReluBackward0``."""
    return str(node.name()).rpartition("::")[2].partition("Backward")[0]


def _has_own_loss(subject: Subject) -> bool:
    usual = type(make_adapter(subject.task)).loss
    model: nn.Module = subject.model
    return type(subject.adapter).loss is not usual or callable(getattr(model, "training_step", None))
