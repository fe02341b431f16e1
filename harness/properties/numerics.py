"""Finite outputs and gradients, at typical and at extreme inputs."""

from __future__ import annotations

import torch

from harness.batches import IGNORED, Batch, Sizes, pad_right
from harness.evidence import Evidence, Status, and_others
from harness.properties.equality import first_failure
from harness.properties.gradient_tracing import first_bad_gradient
from harness.properties.running_statistics import has_running_statistics, mixed_with_typical
from harness.properties.subject import ModelRaisedError, NoGradientError, Subject, gradient_of, mode
from harness.properties.tracing import finite, first_broken, recording
from harness.randomness import seeded

EXTREMES = ("constant_zero", "constant_large", "constant_negative", "spike", "first_id", "last_id", "alternating")
"""Extreme contents; each becomes what the task's fields can hold."""

_LARGE = 1e4
_LARGE_PIXEL = 255.0


def finite_output(subject: Subject, sizes: Sizes, contents: tuple[str, ...] = ("typical",), seed: int = 0) -> Evidence:
    """The logits hold neither NaN nor infinity.

    Args:
        subject: The model.
        sizes: Sizes of the batch.
        contents: What the inputs hold, one after the other: ``typical`` or any of ``EXTREMES``.
        seed: Seed of typical content.
    """
    return first_failure(_finite_at(subject, sizes, content, seed) for content in contents)


def finite_at_extremes(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """The logits are finite whatever the inputs hold; see ``finite_output``."""
    return finite_output(subject, sizes, EXTREMES, seed)


def fully_padded_row(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """A row that is all padding poisons neither the logits nor the gradients of its batch.

    Such rows come from empty texts and from filling up the last batch.
    """
    name = "finite_output"
    counterexample = f"{sizes.describe(subject.task)}, lengths={[sizes.seq] * (sizes.batch - 1) + [0]}, seed={seed}"
    if not subject.adapter.takes(subject.model, "attention_mask"):
        return Evidence(name, Status.SKIPPED, "forward takes no `attention_mask`")
    batch = pad_right(subject.task, subject.batch(sizes, seed), [sizes.seq] * (sizes.batch - 1) + [0], sizes.seq)
    evidence = _finite_forward(subject, batch, counterexample, "at a batch with a row that is all padding")
    if evidence.status is not Status.OK:
        return evidence
    if subject.task.is_seq2seq:
        batch["labels"][-1] = IGNORED
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
    )


def finite_gradients(subject: Subject, sizes: Sizes, seed: int = 0) -> Evidence:
    """Every gradient is finite in train mode, whatever the inputs hold; see ``finite_output``."""
    return first_failure(_finite_gradients_at(subject, sizes, content, seed) for content in ("typical", *EXTREMES))


def _finite_at(subject: Subject, sizes: Sizes, content: str, seed: int) -> Evidence:
    batch = extreme_batch(subject, sizes, content, seed)
    return _finite_forward(
        subject, batch, f"{sizes.describe(subject.task)}, content={content}, seed={seed}", f"at {_spoken(content)} inputs"
    )


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
    )


def extreme_batch(subject: Subject, sizes: Sizes, content: str, seed: int) -> Batch:
    """A batch whose inputs hold the given content."""
    batch = subject.batch(sizes, seed)
    if content == "typical":
        return batch
    for field in subject.task.facts.inputs:
        tensor = batch[field]
        if tensor.is_floating_point():
            batch[field] = _extreme_values(tensor, content, _LARGE_PIXEL if field == "pixel_values" else _LARGE)
        elif field != "attention_mask":
            batch[field] = _extreme_ids(tensor, content, subject.task.vocabulary_of(field) or 1, subject.task.pad_token_id)
    if subject.task.task_type.value == "causal_lm":
        batch["labels"] = batch["input_ids"].clone()
    return batch


def _extreme_values(tensor: torch.Tensor, content: str, large: float) -> torch.Tensor:
    if content == "spike":
        spiked = torch.zeros_like(tensor)
        spiked.flatten(1)[:, 0] = large
        return spiked
    if content == "alternating":
        signs = torch.arange(tensor.numel(), device=tensor.device).reshape(tensor.shape) % 2 * 2 - 1
        return signs.to(tensor.dtype)
    value = {"constant_large": large, "constant_negative": -large, "last_id": 1.0}.get(content, 0.0)
    return torch.full_like(tensor, value)


def _extreme_ids(ids: torch.Tensor, content: str, vocab: int, pad: int | None) -> torch.Tensor:
    real = [token for token in (0, 1, vocab - 2, vocab - 1) if 0 <= token < vocab and (token != pad or vocab == 1)]
    if content == "alternating":
        position = torch.arange(ids.shape[1], device=ids.device) % 2
        return torch.where(position.bool(), real[-1], real[0]).expand(ids.shape).clone()
    if content == "spike":
        spiked = torch.full_like(ids, real[0])
        spiked[:, 0] = real[-1]
        return spiked
    return torch.full_like(ids, real[-1] if content in ("last_id", "constant_large") else real[0])


def _finite_forward(subject: Subject, batch: Batch, counterexample: str, where: str) -> Evidence:
    name = "finite_output"
    try:
        logits = subject.logits(batch)
    except ModelRaisedError as error:
        if subject.trouble.raises:  # whatever the inputs hold
            raise
        return Evidence(name, Status.FAIL, f"forward raises {where}: {error}", counterexample=counterexample, module=error.module)
    bad = int((~torch.isfinite(logits)).sum())
    if not bad and logits.numel():
        return Evidence(name, Status.OK, "logits are finite", 0.0, 0.0, "elements", counterexample)
    kind = "NaN" if bool(logits.isnan().any()) else "infinite"

    def culprit() -> str:
        with recording(subject.model) as calls:
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
    )


def _bad_gradients(subject: Subject, batch: Batch) -> list[str]:
    """Names of the parameters whose gradient is not finite, after one backward in train mode; its state is left as it was."""
    model = subject.model
    # A buffer that no checkpoint holds is a cache, and how far it is filled may be a plain attribute that is not put back.
    saved = model.state_dict(keep_vars=True)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers() if name in saved}
    model.zero_grad(set_to_none=True)
    with mode(model, train=True), seeded(0):
        try:
            loss = subject.backward(batch)
        except NoGradientError:
            return []
        gradients = {name: gradient for name, p in model.named_parameters() if (gradient := gradient_of(p)) is not None}
    # One look at the norm of all spares a look at each; large but finite gradients may overflow it, so it only acquits.
    finite_norm = bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients.values())))
    bad = [] if finite_norm else [name for name, gradient in gradients.items() if not bool(torch.isfinite(gradient).all())]
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
