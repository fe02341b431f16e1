"""Batches whose rows have fewer real elements than there is room for, as lengths, masks or padding ids say."""

from __future__ import annotations

from collections.abc import Container

import torch
from torch import Tensor

from harness.batches import Batch, Sizes
from harness.tasks import TaskSpec
from harness.tasks.axes import BATCH, rows_first
from harness.tasks.signature import Input, Signature
from harness.tasks.values import Drawing, Ids, LengthsOf, MaskOf


def shorter_axes(signature: Signature) -> dict[str, Input]:
    """Axes along which rows may be shorter, each with the input that tells where a row ends."""
    told: dict[str, Input] = {}
    for each in signature.inputs:
        if isinstance(each.values, (LengthsOf, MaskOf)):
            told.setdefault(each.values.axis, each)
    for each in signature.inputs:
        padded = [axis for axis in each.axes if isinstance(axis, str) and signature.axes[axis].padding]
        if isinstance(each.values, Ids) and each.values.pad is not None and BATCH in each.axes:
            told |= {axis: each for axis in padded if axis not in told}
    return told


def has_shorter_rows(task: TaskSpec, fields: Container[str]) -> bool:
    """Whether rows may be shorter than there is room for, and one of some fields tells."""
    return any(each.name in fields for each in shorter_axes(task.signature).values())


def shorten_rows(task: TaskSpec, batch: Batch, sizes: Sizes) -> Batch:
    """The batch, whose rows are first, with the first half of its rows whole and the others half as long."""
    signature = task.signature
    whole = signature.complete(sizes.by_axis(task))
    rows = whole.get(BATCH, 1)
    lengths = {}
    for name in shorter_axes(signature):
        short = max(signature.axes[name].least, 1, whole[name] // 2)
        lengths[name] = torch.tensor([whole[name] if 2 * row < rows else min(short, whole[name]) for row in range(rows)])
    drawing = Drawing(whole, torch.Generator(), lengths)
    changed = {name: tensor.cpu() for name, tensor in batch.items()}
    for each in signature.inputs:
        if each.name not in changed:
            continue
        if isinstance(each.values, (LengthsOf, MaskOf)):
            changed[each.name] = each.make(drawing).to(changed[each.name].dtype)
        elif isinstance(each.values, Ids) and each.values.pad is not None and each.axes[0] == BATCH:
            for name in lengths.keys() & set(each.axes):
                changed[each.name] = _filled(changed[each.name], each, name, lengths[name], each.values.pad)
    return changed


def _filled(ids: Tensor, each: Input, axis: str, lengths: Tensor, pad: int) -> Tensor:
    """Ids with the padding id behind the real length of each row."""
    along = [each.axes[place] for place in rows_first(each.axes)].index(axis)
    shape = [1] * ids.ndim
    shape[along] = ids.shape[along]
    places = torch.arange(ids.shape[along]).view(shape)
    return torch.where(places < lengths.view(-1, *[1] * (ids.ndim - 1)), ids, pad)
