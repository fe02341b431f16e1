"""Rows of a declared task put together to batches: stacked, and padded where the declaration allows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from harness.batches import IGNORED, Batch
from harness.data.declared_rows import Field, input_fields, is_padded, label_fields
from harness.data.record import Example
from harness.errors import DataError
from harness.tasks.axes import BATCH, Axis, Formula
from harness.tasks.signature import Signature
from harness.tasks.values import Ids, LengthsOf, MaskOf


def put_together(signature: Signature, examples: Sequence[Example], length: int = 0) -> Batch:
    """A batch of examples: stacked, and padded where the declaration allows it.

    Rows of several sizes are filled with the padding id, with zeros, or with -100 where they are labels. Lengths and masks that the data does
    not give follow from the sizes.

    Args:
        signature: What the fields hold.
        examples: One or more rows with the same fields, or one example of a signature without rows.
        length: What every axis that may be padded is padded to at least.

    Raises:
        DataError: Examples differ along an axis that has no padding, or in an input that a batch has only once.
    """
    if not signature.deals_rows:
        return dict(examples[0])
    return _Collation(signature, examples, length).batch()


class _Collation:
    def __init__(self, signature: Signature, examples: Sequence[Example], length: int) -> None:
        self._signature = signature
        self._examples = examples
        self._length = length
        fields = (*input_fields(signature), *label_fields(signature))
        shared = {
            name: next(field for field in fields if field.name == source) for name, source in signature.label_sources.items()
        }
        self._there = {field.name: field for field in fields} | {
            name: replace(field, name=name, is_needed=False, is_label=True) for name, field in shared.items()
        }
        self._missing = [field for name, field in self._there.items() if name not in examples[0]]
        self._fields = [field for name, field in self._there.items() if all(name in example for example in examples)]
        self._sizes = [self._sizes_of(example) for example in examples]
        self._longest = self._largest_sizes()

    def batch(self) -> Batch:
        made = {field.name: self._stacked(field) for field in self._fields}
        for field in self._missing:
            if isinstance(field.values, (LengthsOf, MaskOf)) and field.values.axis in self._longest:
                made[field.name] = self._told_by_sizes(field)
        # The rows of a batch are counted by its first field.
        order = sorted(self._there, key=lambda name: not self._there[name].has_rows)
        return {name: made[name] for name in order if name in made}

    def _sizes_of(self, example: Example) -> dict[str, int]:
        return {
            axis: size
            for field in self._fields
            for axis, size in zip(field.row_axes, example[field.name].shape, strict=False)
            if isinstance(axis, str)
        }

    def _largest_sizes(self) -> dict[str, int]:
        longest: dict[str, int] = {}
        for axis in dict.fromkeys(name for sizes in self._sizes for name in sizes):
            found = [sizes[axis] for sizes in self._sizes if axis in sizes]
            longest[axis] = self._rounded(axis, max(found), min(found))
        for axis in longest:
            declared = self._signature.axes.get(axis)
            if declared is not None and isinstance(declared.source, Formula) and set(declared.source.axes) <= set(longest):
                longest[axis] = max(longest[axis], int(declared.source.value(longest)))
        return longest

    def _rounded(self, axis: str, most: int, least: int) -> int:
        declared = self._signature.axes.get(axis)
        if declared is None or not declared.is_free:
            return most
        if is_padded(declared):
            return max(self._length, next((size for size in _upwards(declared, most) if declared.allows(size)), most))
        if most != least:
            raise DataError(
                f"rows with {least} and {most} along {axis!r} cannot be put into one batch: declare `axes.{axis}.padding`, "
                "give the data one size, or set `batch_size` 1"
            )
        return most

    def _stacked(self, field: Field) -> Tensor:
        parts = [example[field.name] for example in self._examples]
        if not field.has_rows:
            if any(not torch.equal(part, parts[0]) for part in parts):
                raise DataError(
                    f"`{field.name}` has no axis {BATCH!r} and differs between rows, so they cannot be put into one batch: set `batch_size` 1"
                )
            return parts[0]
        return torch.stack([self._padded(part, field) for part in parts])

    def _padded(self, part: Tensor, field: Field) -> Tensor:
        sizes = zip(field.row_axes, part.shape, strict=False)
        shape = [self._longest[axis] if isinstance(axis, str) else size for axis, size in sizes]
        if list(part.shape) == shape or part.ndim != len(
            field.row_axes
        ):  # of unchecked rows, which are refused where they are used
            return part
        whole = part.new_full(shape, _fill(field))
        view = whole
        for place, (axis, size) in enumerate(zip(field.row_axes, part.shape, strict=False)):
            declared = self._signature.axes.get(axis) if isinstance(axis, str) else None
            start = shape[place] - size if declared is not None and declared.padding == "left" else 0
            view = view.narrow(place, start, size)
        view.copy_(part)
        return whole

    def _told_by_sizes(self, field: Field) -> Tensor:
        axis = field.values.axis
        lengths = torch.tensor([sizes[axis] for sizes in self._sizes])
        dtype = getattr(torch, field.dtype)
        if isinstance(field.values, LengthsOf):
            return lengths.to(dtype)
        places = torch.arange(self._longest[axis])
        declared = self._signature.axes[axis]
        real = places >= (self._longest[axis] - lengths[:, None]) if declared.padding == "left" else places < lengths[:, None]
        inverted = isinstance(field.values, MaskOf) and field.values.inverted
        return (real ^ inverted).to(dtype)


def _upwards(axis: Axis, size: int) -> Iterator[int]:
    """Sizes from one on, as far as one that the axis allows can be."""
    if axis.sizes:
        return (each for each in sorted(axis.sizes) if each >= size)
    return iter(range(size, max(size, axis.least) + axis.multiple_of))


def _fill(field: Field) -> int:
    """What stands where a row is shorter."""
    if field.is_label:
        return 0 if field.dtype == "bool" else IGNORED
    if isinstance(field.values, Ids):
        return field.values.pad or 0
    return int(isinstance(field.values, MaskOf) and field.values.inverted)
