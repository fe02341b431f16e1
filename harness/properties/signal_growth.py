"""Signals and gradients of a fresh model keep their scale over depth and over time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from harness.batches import Batch
from harness.evidence import WHOLE, Evidence
from harness.properties.large_tensors import reading_gradients
from harness.properties.model_variants import calibrated
from harness.properties.prerequisites import hidden_by
from harness.properties.subject import Subject
from harness.properties.tracing import hooked
from harness.runtime import seeded
from harness.tasks.axes import rows_first

_NAME = "initialisation"
_LEAST = 4
"""Blocks in a row that say something of depth."""

_GROWTH = 1e4
"""Factor by which a signal or a gradient may grow over all of them; sound residual streams grow by the root of their number."""

_DECAY = 1e-8
"""Factor down to which a gradient may fade over depth: twenty layers of PyTorch's default weights come to about as much."""

_CAUSE = "weights drawn too large for the number of their inputs, residual branches that are added without a norm or a factor, or no norm at all"


def over_depth(subject: Subject, seed: int = 0) -> Evidence:
    """From the first of some equal blocks to the last neither signal nor gradient grows, or fades, by orders of magnitude.

    Running statistics are those of a few batches, as in training.
    """
    if failure := _unfit(subject):
        return failure
    model = calibrated(subject)
    rows = list(_rows_of_blocks(model))
    signals, slopes = _scales(subject, subject.batch(seed=seed), model) if rows else ({}, {})
    rows = [met for row in rows if len(met := _of_one_shape([p for p in row if p in signals and p in slopes], signals)) >= _LEAST]
    if not rows:
        return Evidence.skipped(
            _NAME, f"nowhere are there {_LEAST} layers or blocks of one class with outputs of one shape, so there is no depth"
        )
    counterexample = f"{subject.typical.describe(subject.task)}, eval mode, seed={seed}"
    worst, found = 1.0, list[tuple[float, str, str, str]]()
    for row in rows:
        first, last = row[0], row[-1]
        for what, ratio in (
            ("the signal", _ratio(signals[last][0], signals[first][0])),
            ("the gradient on its way back", _ratio(slopes[first], slopes[last])),
        ):
            worst = max(worst, ratio)
            if ratio > _GROWTH:
                found.append((ratio, what, f"grows by a factor of {ratio:.1e}", _holder_of(row)))
            elif 0 < ratio < _DECAY and what != "the signal":  # none at all is the matter of gradient_flow
                found.append((1 / ratio, what, f"fades by a factor of {1 / ratio:.1e}", _holder_of(row)))
    if not found:
        return Evidence.ok(
            _NAME, "signals and gradients keep their scale over depth", (worst, _GROWTH, "times"), counterexample=counterexample
        )
    ratio, what, does, path = max(found)
    return Evidence.warned(
        _NAME,
        f"{what} {does} over the blocks of `{path}`",
        (ratio, _GROWTH, "times"),
        counterexample=counterexample,
        module=path,
        cause=_CAUSE,
        code="changes_scale_with_depth",
    )


def over_time(subject: Subject, seed: int = 0) -> Evidence:
    """The gradient of the last step does not grow by orders of magnitude on its way to the first."""
    if failure := _unfit(subject):
        return failure
    signature = subject.task.signature
    laid_out = [signature.main.axes[place] for place in rows_first(signature.main.axes)]
    axis = next((each.name for each in signature.with_order("causal") if each.name in laid_out), "")
    if not axis or laid_out[:2] != ["batch", axis]:
        return Evidence.skipped(_NAME, "the main output has no step for each of a causal axis")
    sizes = subject.reach.largest(1 if subject.is_large else 2)
    batch = subject.batch(sizes, seed)
    steps = signature.complete(sizes.by_axis(subject.task))[axis]
    by_step = _gradient_by_step(subject, batch, calibrated(subject), steps)
    if by_step is None:
        return Evidence.skipped(_NAME, "no module is given or returns a value for each step")
    late = float(by_step[-min(3, steps) :].max())
    ratio = _ratio(float(by_step.max()), late)
    counterexample = f"{sizes.describe(subject.task)}, the gradient of the last step, eval mode, seed={seed}"
    if ratio <= _GROWTH:
        message = "the gradient does not grow on its way back through time"
        return Evidence.ok(_NAME, message, (ratio, _GROWTH, "times that of the last steps"), counterexample=counterexample)
    return Evidence.warned(
        _NAME,
        f"over {steps} steps back in time the gradient grows by a factor of {ratio:.1e}",
        (ratio, _GROWTH, "times that of the last steps"),
        counterexample=counterexample,
        cause="a recurrent matrix whose largest eigenvalue is above 1, or a state to which every step adds more than the last",
        code="grows_over_time",
    )


def _unfit(subject: Subject) -> Evidence | None:
    if not subject.fresh_weights:
        return Evidence.skipped(_NAME, "the weights are loaded, not freshly initialised")
    return hidden_by(subject.prerequisite_failure, _NAME)


def _rows_of_blocks(model: nn.Module) -> Iterator[list[str]]:
    """Paths of children of one class in one module, whatever stands between them; of lists of layers those at one place of each list."""
    for path, parent in model.named_modules():
        rows: dict[tuple[str, type], list[str]] = defaultdict(list)
        for name, child in parent.named_children():
            for place, block in child.named_children() if isinstance(child, nn.ModuleList) else [("", child)]:
                if any(True for _ in block.parameters()):
                    rows[place, type(block)].append(".".join(filter(None, (path, name, place))))
        yield from (row for row in rows.values() if len(row) >= _LEAST)


def _of_one_shape(row: list[str], signals: dict[str, tuple[float, tuple[int, ...]]]) -> list[str]:
    """Those of some blocks whose outputs have the most usual shape: the first and last layers often have another."""
    usual = Counter(signals[path][1] for path in row).most_common(1)
    return [path for path in row if signals[path][1] == usual[0][0]]


def _holder_of(row: list[str]) -> str:
    """Path of the module that holds some blocks."""
    pairs = zip(row[0].split("."), row[-1].split("."), strict=True)
    return ".".join(part for part, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) or WHOLE


def _scales(
    subject: Subject, batch: Batch, model: nn.Module
) -> tuple[dict[str, tuple[float, tuple[int, ...]]], dict[str, float]]:
    """The size and shape of what each module returns that is called once, and the size of its gradient."""
    kept: dict[str, list[Tensor]] = {}

    def leave(path: str, output: Any) -> None:
        first = output[0] if isinstance(output, (tuple, list)) and output else output
        if isinstance(first, Tensor) and first.requires_grad:
            first.retain_grad()
            kept.setdefault(path, []).append(first)

    model = subject.copies.of(model).eval()
    with hooked(model, lambda *_: None, leave):
        _backward(subject, batch, model, None)
    once = {path: tensors[0] for path, tensors in kept.items() if len(tensors) == 1}
    signals = {path: (_rms(tensor), tuple(tensor.shape)) for path, tensor in once.items()}
    return signals, {path: _rms(tensor.grad) for path, tensor in once.items() if tensor.grad is not None}


def _gradient_by_step(subject: Subject, batch: Batch, model: nn.Module, steps: int) -> Tensor | None:
    """The size of the gradient of the last step with respect to the first module's outputs at each step."""
    met: list[Tensor] = []

    def leave(_path: str, output: Any) -> None:
        if not met and isinstance(output, Tensor) and output.requires_grad and output.ndim > 2 and output.shape[1] == steps:
            output.retain_grad()
            met.append(output)
            model.requires_grad_(False)  # the gradients of weights are not looked at, and take as much memory as they do

    model = subject.copies.of(model).eval()
    with hooked(model, lambda *_: None, leave):
        _backward(subject, batch, model, steps - 1)
    if not met or met[0].grad is None:
        return None
    return met[0].grad.double().transpose(0, 1).flatten(1).square().mean(1).sqrt()


def _backward(subject: Subject, batch: Batch, model: nn.Module, step: int | None) -> None:
    with seeded(0), torch.enable_grad():
        logits = subject.logits_with_grad(batch, model)
        logits = logits if step is None else logits[:, step]
        weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0)).to(logits)
        with reading_gradients(model, lambda _name, _gradient: None):  # those of weights are not looked at
            (logits * weights).sum().backward()


def _rms(tensor: Tensor) -> float:
    return float(tensor.detach().double().square().mean().sqrt())


def _ratio(value: float, other: float) -> float:
    return value / other if other > 0 else 1.0
