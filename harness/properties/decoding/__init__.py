"""What models that write token by token have in common: a text that can be cut, the causal axis along which they read, and what has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.batches import Batch
from harness.properties.subject import Subject
from harness.tasks.axes import BATCH, rows_first
from harness.tasks.signature import Input, Signature
from harness.tasks.values import Ids, LengthsOf, MaskOf


@dataclass(frozen=True)
class Text:
    """What a model reads along one causal axis.

    Attributes:
        signature: Of the task.
        axis: Name of the axis.
        along: Place of the axis in the main output.
    """

    signature: Signature
    axis: str
    along: int

    @property
    def inputs(self) -> list[Input]:
        """The inputs that are read along the axis."""
        return [each for each in self.signature.inputs if self.axis in each.axes and not isinstance(each.values, MaskOf)]

    @property
    def mask(self) -> Input | None:
        """The mask of the axis."""
        masks = (each for each in self.signature.inputs if isinstance(each.values, MaskOf) and each.values.axis == self.axis)
        return next(masks, None)

    @property
    def ids(self) -> Input | None:
        """The token ids."""
        return next((each for each in self.inputs if isinstance(each.values, Ids) and each.axes == (BATCH, self.axis)), None)

    def place_in(self, each: Input) -> int:
        """Where an input has the axis, with its rows first."""
        return [each.axes[place] for place in rows_first(each.axes)].index(self.axis)

    def length_of(self, batch: Batch) -> int:
        """How long a text is."""
        return batch[self.inputs[0].name].shape[self.place_in(self.inputs[0])]

    def rows_of(self, batch: Batch) -> int:
        """How many rows it has."""
        return self.signature.row_count(batch)

    def piece(self, batch: Batch, start: int, size: int) -> Batch:
        """A part of a text; a mask that may be left out is, and another one tells of all that was read."""
        found = dict(batch)
        for each in self.inputs:
            found[each.name] = batch[each.name].narrow(self.place_in(each), start, size).clone()
        for each in self.signature.inputs:
            if isinstance(each.values, LengthsOf) and each.values.axis == self.axis and each.name in found:
                found[each.name] = torch.full_like(found[each.name], size)
        if self.mask is not None and self.mask.name in found:
            if self.mask.optional:
                del found[self.mask.name]
            else:
                found[self.mask.name] = found[self.mask.name].narrow(self.place_in(self.mask), 0, start + size)
        return found

    def joined(self, before: Batch, piece: Batch) -> Batch:
        """What was read before, with the next piece behind it."""
        if not before:
            return piece
        read = {each.name: torch.cat([before[each.name], piece[each.name]], self.place_in(each)) for each in self.inputs}
        return {**piece, **read}

    def element(self, batch: Batch, place: int, keeps_axis: bool = False) -> Tensor:
        """One element of the first input, with the axis or without."""
        value, along = batch[self.inputs[0].name], self.place_in(self.inputs[0])
        return value.narrow(along, place, 1) if keeps_axis else value.select(along, place)

    def of_output(self, logits: Tensor, start: int, size: int) -> Tensor:
        """A part of the main output."""
        return logits.narrow(self.along, start, size)


def whole_text(subject: Subject) -> Text | None:
    """The text of a model; ``None`` where there is none that can be cut anywhere."""
    signature = subject.task.signature
    laid_out: Sequence[int | str] = [signature.main.axes[place] for place in rows_first(signature.main.axes)]
    for axis in signature.with_order("causal"):
        text = Text(signature, axis.name, laid_out.index(axis.name)) if axis.name in laid_out else None
        if text is not None and text.inputs and axis.multiple_of == 1 and not axis.sizes:
            return text
    return None


_MOST_SCORES = 4096
"""Scores of a place that are compared where calls are large: all follow from one hidden state, and of a few tokens' calls many are kept."""


def some_scores(subject: Subject, logits: Tensor) -> Tensor:
    """The logits; of a large model with many scores a spread of them at each place, so that not all of every call are kept."""
    step = -(-logits.shape[-1] // _MOST_SCORES) if subject.is_large and logits.ndim > 2 else 1
    return logits[..., ::step].clone() if step > 1 else logits
