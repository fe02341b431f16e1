"""Padding changes nothing in train mode either: outputs at real elements, running statistics, the loss, and the gradients."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from harness.batches import IGNORED, Batch
from harness.compat import NormBase
from harness.evidence import WHOLE, Evidence, Status
from harness.owners import left_to
from harness.properties.calling import ModelRaisedError, WithoutDropout
from harness.properties.independence import row_of
from harness.properties.large_tensors import Read, gradient_gaps, reading_gradients
from harness.properties.noise import difference, judge_equal
from harness.properties.padding import no_padding, padded, placed, real_part, tells_padding, unknown_elements
from harness.properties.places import line_that_calls
from harness.properties.prerequisites import hidden_by
from harness.properties.subject import Subject
from harness.properties.tracing import along_time, first_divergence, positions_view, recording
from harness.properties.train_mode import DRAWS, NAME, still
from harness.runtime import seeded
from harness.tasks.axes import BATCH, Axis, Side, rows_first
from harness.tasks.signature import MODEL, Output

_ROWS = 4

_NOISE = 1e3
"""How many units in the last place a loss and its gradients may differ by, as sums are taken in another order."""

_CAUSE = (
    "a norm over the batch, a mean or an auxiliary loss that counts padded elements in train mode, or a mask that only one branch of "
    "`if self.training` applies"
)


def padding_in_training(subject: Subject, seed: int = 0) -> Evidence:
    """In train mode rows give at their real elements what they give with less padding, and teach the model the same.

    A plain batch norm cannot know of padding, and models are trained with it all the same: what it alone explains is a warning.
    """
    if failure := hidden_by(subject.prerequisite_failure, NAME):
        return failure
    rows, reason = with_more_padding(subject, seed)
    return _judge(rows) if rows is not None else Evidence.skipped(NAME, reason)


def with_more_padding(subject: Subject, seed: int = 0) -> tuple[PaddedRows | None, str]:
    """Rows that are padded, and the same with as little padding as they can have; or why there are none."""
    signature, reasons = subject.task.signature, list[str]()
    for axis in signature.padded:
        reason = no_padding(subject, axis) or unknown_elements(signature, axis)
        if not reason and BATCH not in signature.main.axes:
            reason = f"`{signature.main.name}` has no rows that could be padded"
        if not reason:
            return PaddedRows(subject, axis, seed), ""
        reasons.append(reason)
    return None, next(iter(reasons), "")


def _judge(trial: PaddedRows) -> Evidence:
    subject = trial.subject
    try:
        reads_padding = trial.reads_padding
    except ModelRaisedError as error:
        return Evidence.skipped(NAME, f"forward raises where every row is shorter than the batch: {error}")
    if reads_padding:
        return left_to(NAME, "padding_ignored", "padding changes the outputs in eval mode too", code="reads_padding")
    if trial.is_random:
        return Evidence.skipped(NAME, DRAWS)
    evidence = _compared(trial, fixed_norms=False)
    if evidence.status is not Status.FAIL or not (norms := _plain_norms(subject.model)):
        return evidence
    if _compared(trial, fixed_norms=True).status is Status.FAIL:
        return evidence
    parent, _, name = next(iter(norms)).rpartition(".")
    return replace(
        evidence,
        status=Status.WARN,
        module=next(iter(norms)),
        place=line_that_calls(subject.model, parent or WHOLE, (name,)),
        investigate=None,
        cause="a batch norm whose mean and variance count padded elements: give it the real ones only, or use a norm of each element",
        code="padding_in_statistics",
    )


def _compared(trial: PaddedRows, fixed_norms: bool) -> Evidence:
    subject = trial.subject
    facts: dict[str, Any] = {"counterexample": trial.counterexample, "cause": _CAUSE, "code": "reads_padding_in_training"}

    def outputs(model: nn.Module) -> tuple[Tensor, Tensor]:
        return trial.outputs(model, fixed_norms)

    evidence = judge_equal(
        subject,
        NAME,
        outputs,
        f"in train mode the logits at real elements change with the padding along `{trial.axis.name}`",
        investigate=lambda model: trial.culprit(model, fixed_norms),
        **facts,
    )
    if evidence.status is Status.FAIL or not trial.has_loss:
        return evidence
    gaps, scale = trial.lessons(subject.model, fixed_norms)

    def compare(model: nn.Module) -> tuple[Tensor, Tensor]:
        found = gaps if model is subject.model else trial.lessons(model, fixed_norms)[0]
        return found, torch.zeros_like(found)

    return judge_equal(
        subject,
        NAME,
        compare,
        f"the loss or its gradient changes with the padding along `{trial.axis.name}`, though no output at a real element does",
        bound=_NOISE * torch.finfo(subject.dtype).eps * max(1.0, scale),
        **{**facts, "code": "padding_in_loss"},
    )


class PaddedRows:
    """Some rows with much padding, and the same rows with as little as they can have.

    Attributes:
        subject: The model.
        axis: The axis along which they are padded.
        has_loss: Whether labels at padding count for nothing, so that the losses of both can be compared.
    """

    def __init__(self, subject: Subject, axis: Axis, seed: int) -> None:
        self.subject, self.axis, self._seed = subject, axis, seed
        self._signature = subject.task.signature
        self._sizes = replace(subject.typical, batch=_ROWS)
        total = self._signature.complete(self._sizes.by_axis(subject.task))[axis.name]
        least = axis.least if 1 <= axis.least < total else 1
        longest = max(least, (total + least) // 2)
        self._lengths = [max(least, longest - row) for row in range(_ROWS)]
        side: Side = "left" if axis.padding == "left" else "right"
        self._real = placed(side, self._lengths, total).to(subject.device)
        self._long = padded(self._signature, subject.batch(self._sizes, seed), axis.name, self._real)
        kept = next((size for size in axis.choices() if size >= longest), total)
        self._kept = slice(total - kept, total) if side == "left" else slice(0, kept)
        self._short = {name: self._narrowed(name, value) for name, value in self._long.items()}
        self.has_loss = self._signature.is_trainable and all(map(self._is_ignorable, self._signature.outputs))

    @property
    def reads_padding(self) -> bool:
        """Whether padding changes what the real elements give in eval mode."""
        outputs = (each.nan_to_num() for each in self.outputs(self.subject.model, None))  # NaN in both is finite_output's matter
        return difference(*outputs) > self.subject.bound("padding_ignored")

    @property
    def is_random(self) -> bool:
        """Whether train mode gives something else under another seed."""
        found = []
        for seed in (self._seed, self._seed + 1):
            model = self.fresh(self.subject.model, fixed_norms=False)
            with seeded(seed), WithoutDropout():
                found.append(self.subject.raw_logits(self._long, model).nan_to_num())
        return difference(*found) > self.subject.rounding

    @property
    def counterexample(self) -> str:
        """The rows, for people."""
        total, kept = (real.shape[1] for real in (self._real, self._real[:, self._kept]))
        along = f"{self.axis.name}={kept} and {total}" if self.subject.task.declared else f"seq={kept} and {total}"
        return f"train mode, batch={_ROWS}, {along}, lengths={self._lengths}, seed={self._seed}"

    def fresh(self, like: nn.Module, fixed_norms: bool) -> nn.Module:
        """A copy of the model in train mode, without what drops at random."""
        model = self.subject.fresh_like(like)
        model.train()
        still(model)
        if fixed_norms:
            for norm in _plain_norms(model).values():
                norm.eval()
        return model

    def outputs(self, like: nn.Module, fixed_norms: bool | None) -> tuple[Tensor, Tensor]:
        """What the real elements give, with much padding and with little, and in train mode the statistics that each leaves.

        Args:
            like: The model, or the same in another dtype.
            fixed_norms: Whether plain norms are in eval mode; ``None`` where all of the model is.
        """
        found = []
        for batch, real in self.both:
            model = self.subject.fresh_like(like) if fixed_norms is None else self.fresh(like, fixed_norms)
            with seeded(self._seed), WithoutDropout():
                logits = self.subject.raw_logits(batch, model)
            parts = [self._real_part(row_of(logits, row, _ROWS), each) for row, each in enumerate(real)]
            # Persistent ones only: others are caches, whose size may follow the length.
            saved = model.state_dict(keep_vars=True)
            kept = [b for name, b in model.named_buffers() if name in saved and b.is_floating_point() and fixed_norms is not None]
            found.append(torch.cat([part.flatten() for part in (*parts, *kept)]))
        return found[0], found[1]

    def lessons(self, like: nn.Module, fixed_norms: bool) -> tuple[Tensor, float]:
        """How far the loss and its gradients are with much padding from those with little, and the largest of them."""
        losses: list[float] = []

        def teach(batch: Batch, read: Read) -> None:
            model = self.fresh(like, fixed_norms)
            with seeded(self._seed), WithoutDropout(), reading_gradients(model, read):
                loss = self.subject.train_loss(batch, model)
                loss.backward()
            losses.append(float(loss.detach()))

        found = gradient_gaps(like, *(partial(teach, batch) for batch, _ in self.both)).values()
        gaps = torch.tensor([losses[0] - losses[1], *(each.gap for each in found)], dtype=torch.float64)
        return gaps, max([abs(losses[0]), *(each.largest or 0.0 for each in found)])

    def culprit(self, like: nn.Module, fixed_norms: bool) -> str:
        """Path of the first module whose outputs at real elements of a row differ though its inputs there do not."""
        traces = []
        for batch, _ in self.both:
            model = self.fresh(like, fixed_norms)
            with seeded(self._seed), WithoutDropout(), recording(model, lines=True) as trace:
                self.subject.raw_logits(batch, model)
            traces.append(along_time(trace))
        long, short = (real.shape[1] for _, real in self.both)
        if self.axis.padding == "left":
            return ""
        for row, length in enumerate(self._lengths):
            views = [positions_view(_ROWS, size, length, row=row) for size in (long, short)]
            if module := first_divergence(traces[0], traces[1], *views):
                return module
        return ""

    @property
    def both(self) -> list[tuple[Batch, Tensor]]:
        """The batch with much padding and that with little, each with what is real in it."""
        return [(self._long, self._real), (self._short, self._real[:, self._kept])]

    def _narrowed(self, name: str, value: Tensor) -> Tensor:
        """A field of the batch without the places along the axis that are left out."""
        axes = self._signature.axes_of(name)
        for place, each in enumerate(axes[place] for place in rows_first(axes)):
            if each == self.axis.name and place < value.ndim and value.shape[place] == self._real.shape[1]:
                value = value.narrow(place, self._kept.start, self._kept.stop - self._kept.start)
        return value

    def _real_part(self, output: Tensor, real: Tensor) -> Tensor:
        sizes = self._sizes.by_axis(self.subject.task)
        return real_part(self._signature, sizes, self.axis.name, output, real)

    def _is_ignorable(self, output: Output) -> bool:
        """Whether an output has no labels at padding, or such as count for nothing there."""
        signature = self._signature
        if not any(signature.axes[name].follows(self.axis.name) for name in output.axes if isinstance(name, str)):
            return True
        if signature.whole_loss == MODEL:  # forward makes it, and is told what is real
            return tells_padding(self.subject, self.axis.name)
        name = signature.label_name(output)
        axes = [signature.axes_of(name)[place] for place in rows_first(signature.axes_of(name))]
        marked = name in self._long and not self._long[name].is_floating_point() and bool((self._long[name] == IGNORED).any())
        return marked and axes[:2] == [BATCH, self.axis.name] and output.loss != "ctc"


def _plain_norms(model: nn.Module) -> dict[str, nn.Module]:
    """PyTorch's own norms over the batch, by path; one of a class of the user's may well know of padding."""
    norms: dict[str, nn.Module] = {path: module for path, module in model.named_modules() if isinstance(module, NormBase)}
    return {path: norm for path, norm in norms.items() if type(norm).__module__.startswith("torch.")}
