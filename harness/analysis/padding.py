"""Batches whose rows are shorter, for any task that says how; and what is real in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.batches import Batch, Sizes
from harness.properties import padding
from harness.properties.subject import Subject
from harness.tasks.axes import BATCH, Axis, Formula, Size, rows_first
from harness.tasks.signature import Output, Signature
from harness.tasks.values import Ids, MaskOf


@dataclass(frozen=True)
class PaddedBatch:
    """A batch with rows of several lengths along an axis.

    Attributes:
        signature: Of the task.
        axis: The axis.
        batch: The inputs.
        real: Which elements along it are real, bool ``[B, S]``.
    """

    signature: Signature
    axis: Axis
    batch: Batch
    real: Tensor

    def real_along(self, name: str) -> Tensor | None:
        """Which elements are real along the axis, or one whose size follows from it (bool ``[B, S]``); ``None`` along any other."""
        if name == self.axis.name:
            return self.real
        source = self.signature.axes[name].source
        if self.axis.padding == "left" or not isinstance(source, Formula) or source.axes != (self.axis.name,):
            return None
        lengths = source.value({self.axis.name: self.real.sum(1)})
        whole = int(source.value({self.axis.name: self.real.shape[1]}))
        return torch.arange(whole, device=lengths.device) < lengths[:, None]

    def real_values(self, output: Output, value: Tensor) -> Tensor:
        """The values of an output at what is real: at its real positions, or in the rows that have any."""
        axes = rows_first_axes(output.axes)
        rows = self.real.any(1)
        if not axes or axes[0] != BATCH:
            return value
        for place, name in enumerate(axes):
            real = self.real_along(name) if isinstance(name, str) and name != BATCH else None
            if real is not None:
                return value.movedim(place, 1)[real & rows[:, None]]
        return value[rows]


def rows_first_axes(axes: Sequence[Size]) -> list[Size]:
    """The axes in the order in which the suite holds a tensor."""
    return [axes[place] for place in rows_first(axes)]


def tells_padding(subject: Subject, axis: Axis) -> bool:
    """Whether the model is given anything that says which elements along an axis are real."""
    ids = (each.values for each in subject.task.signature.inputs if axis.name in each.axes and isinstance(each.values, Ids))
    return padding.tells_padding(subject, axis.name) or any(values.pad is not None for values in ids)


def takes_mask(subject: Subject, axis: Axis) -> bool:
    """Whether the model is given a mask of an axis, in which a row may have no real element."""
    masks = (each for each in subject.task.signature.inputs if isinstance(each.values, MaskOf) and each.values.axis == axis.name)
    return any(subject.adapter.takes(subject.model, each.name) for each in masks)


def padded_batch(subject: Subject, batch: Batch, axis: Axis, sizes: Sizes, lengths: Sequence[int]) -> PaddedBatch:
    """A batch whose rows are cut to lengths, on the side where the axis has its padding."""
    signature = subject.task.signature
    total = signature.complete(sizes.by_axis(subject.task))[axis.name]
    real = padding.placed("left" if axis.padding == "left" else "right", lengths, total).to(subject.device)
    return PaddedBatch(signature, axis, padding.padded(signature, batch, axis.name, real), real)
