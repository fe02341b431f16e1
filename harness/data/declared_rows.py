"""A row of a declared task: found by the names of the signature, and checked against it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.batches import IGNORED
from harness.data import Example, Record
from harness.data.columns import is_empty
from harness.errors import did_you_mean
from harness.tasks.axes import BATCH, Axis, Formula, Size, rows_first
from harness.tasks.kinds import CtcScores
from harness.tasks.signature import Input, Output, Signature
from harness.tasks.values import Ids, IndexOf, LengthsOf, MaskOf, Values
from harness.wording import joined, listed

LABEL_COLUMNS = ("labels", "label", "target", "targets", "y")
"""Names that the labels of the main output may have in the data."""


@dataclass(frozen=True)
class Field:
    """An input or a label of a row.

    Attributes:
        name: Its name in a batch.
        axes: Its axes, the rows first where it has them.
        values: What it holds.
        dtype: Name of its dtype; empty for whatever it has.
        is_needed: Whether every row must have it.
        is_label: Whether it is a label, of which some may be ignored.
        columns: What it may be called in the data.
        rows_at: The place of the rows among the axes of forward; ``None`` where an example has no row of it, but all.
    """

    name: str
    axes: tuple[Size, ...]
    values: Values
    dtype: str
    is_needed: bool
    is_label: bool = False
    columns: tuple[str, ...] = ()
    rows_at: int | None = None

    @property
    def has_rows(self) -> bool:
        """Whether each row has its own."""
        return self.rows_at is not None

    @property
    def row_axes(self) -> tuple[Size, ...]:
        """Its axes in a single example."""
        return self.axes[1:] if self.has_rows else self.axes


def input_fields(signature: Signature) -> list[Field]:
    """The inputs that data can give: all but a state."""
    given = [each for each in signature.inputs if not each.state]
    return [_field_of(each, signature, is_label=False) for each in given]


def label_fields(signature: Signature) -> list[Field]:
    """The labels that data can give: those that are declared, then those of each output."""
    declared = [_field_of(each, signature, is_label=True) for each in signature.labels]
    found = [_label_of(output, signature) for output in signature.outputs]
    names = {each.name for each in declared} | set(signature.label_sources)
    return [*declared, *(each for each in found if each is not None and each.name not in names)]


def _field_of(each: Input, signature: Signature, is_label: bool) -> Field:
    place, needed = _place_of_rows(each.axes, signature), not each.optional
    return Field(each.name, _rows_first(each.axes), each.values, each.dtype, needed, is_label, (each.name,), place)


def _place_of_rows(axes: tuple[Size, ...], signature: Signature) -> int | None:
    return axes.index(BATCH) if BATCH in axes and signature.deals_rows else None


def _label_of(output: Output, signature: Signature) -> Field | None:
    shape = signature.label_shape(output) if output.loss else None
    if shape is None:
        return None
    name, inputs = signature.label_name(output), {each.name for each in signature.inputs}
    columns = [name, f"labels.{output.name}", *([] if output.name in inputs else [output.name])]
    columns += [each for each in LABEL_COLUMNS if output is signature.main and each not in inputs]
    # What comes next in an input is its own label, and a loss of the user's may do without.
    needed = signature.next_of(output) is None and not signature.loss and output.weight > 0
    # Of the symbols that connectionist temporal classification finds, each row has its own number.
    axes = (BATCH, f"symbols of {output.name}") if isinstance(output.kind, CtcScores) else _rows_first(shape.axes)
    place = _place_of_rows(shape.axes, signature)
    return Field(name, axes, shape.values, shape.values.dtype(), needed, True, tuple(dict.fromkeys(columns)), place)


def _rows_first(axes: tuple[Size, ...]) -> tuple[Size, ...]:
    return tuple(axes[place] for place in rows_first(axes))


class RowReader:
    """Makes the examples of a declared task.

    Args:
        signature: What a row must hold.
        lenient: Whether rows are taken as production data comes: without labels, and with numbers that are not finite.
        labelled: Whether any row has labels; in one that has none, each is ignored then.
    """

    def __init__(self, signature: Signature, lenient: bool = False, labelled: bool = True) -> None:
        self._labelled = labelled
        self.signature = signature
        self.fields = (*input_fields(signature), *label_fields(signature))
        self._lenient = lenient

    def __call__(self, record: Record) -> Example:
        """The example of a row: a tensor for each field that is there, as declared.

        Raises:
            DataError: The row does not fit the signature; the message names the row, and what is wrong with it.
        """
        sizes: dict[str, int] = {}
        found = {field.name: made for field in self.fields if (made := self._field(record, field, sizes)) is not None}
        found |= {name: found[source].clone() for name, source in self.signature.label_sources.items() if source in found}
        for output in self.signature.outputs:
            following = self.signature.next_of(output)
            if following is not None and output.loss and self.signature.label_name(output) not in found:
                found[self.signature.label_name(output)] = found[following[1]].clone()
        return found

    def _field(self, record: Record, field: Field, sizes: dict[str, int]) -> Tensor | None:
        name = next((name for name in field.columns if not _is_missing(record.fields.get(name), field)), None)
        if name is None:
            if field.is_label and field.is_needed and self._lenient and self._labelled:
                return self._ignored(field, sizes)
            if field.is_needed and not (field.is_label and self._lenient) and not self._follows(field):
                raise record.refuse(self._missing(field, record))
            return None
        value = as_tensor(record, name, record.fields[name], field)
        self._check_shape(record, name, value, field, sizes)
        self._check_values(record, name, value, field, sizes)
        return value

    def _ignored(self, field: Field, sizes: Mapping[str, int]) -> Tensor | None:
        """Labels that count for nothing, of a row whose labels are not known, or not yet."""
        whole = self.signature.complete({name: size for name, size in sizes.items() if self.signature.axes[name].is_free})
        shape = [axis if isinstance(axis, int) else whole.get(axis, 0) for axis in field.row_axes]
        return None if field.dtype == "bool" else torch.full(shape, IGNORED, dtype=getattr(torch, field.dtype or "float32"))

    def _follows(self, field: Field) -> bool:
        """Whether a field can be told from the sizes of the row: its lengths, or which elements are real."""
        return isinstance(field.values, (LengthsOf, MaskOf))

    def _missing(self, field: Field, record: Record) -> str:
        there = [str(name) for name in record.fields]
        near = next((hint for hint in (did_you_mean(name, there) for name in field.columns) if hint), "")
        what = (
            f"no labels, which may be called {joined([f'`{name}`' for name in field.columns], 'or')}"
            if field.is_label
            else f"no input `{field.name}`"
        )
        return f"{what}.{near} It has {listed(there, 8) or 'nothing'}"

    def _check_shape(self, record: Record, name: str, value: Tensor, field: Field, sizes: dict[str, int]) -> None:
        axes = field.row_axes
        fixed = [axis == size for axis, size in zip(axes, value.shape, strict=False) if isinstance(axis, int)]
        if value.ndim != len(axes) or not all(fixed):
            raise record.refuse(f"`{name}` has shape {list(value.shape)}, declared [{', '.join(map(str, axes))}] for a row")
        for axis, size in zip(axes, value.shape, strict=True):
            if isinstance(axis, str):
                self._check_size(record, name, axis, size, sizes)

    def _check_size(self, record: Record, name: str, axis: str, size: int, sizes: dict[str, int]) -> None:
        declared = self.signature.axes.get(axis)
        source = declared.source if declared is not None else None
        expected = sizes.get(axis)
        if isinstance(source, Formula) and set(source.axes) <= set(sizes):
            expected = int(source.value(sizes))
        if expected is not None and size != expected:
            raise record.refuse(f"`{name}` has {size} along {axis!r}, the other fields say {expected}")
        if declared is not None and declared.is_free and not _allows(declared, size):
            raise record.refuse(f"`{name}` has {size} along {axis!r}; `axes.{axis}` allows {_allowed(declared)}")
        sizes[axis] = size

    def _check_values(self, record: Record, name: str, value: Tensor, field: Field, sizes: Mapping[str, int]) -> None:
        values = field.values
        if value.is_floating_point():
            if not self._lenient and not bool(value.isfinite().all()):
                raise record.refuse(f"`{name}` holds NaN or infinity")
            return
        limits = _largest(values, sizes)
        if limits is None:
            return
        wrong = (value < 0) | (value > torch.tensor(limits))
        wrong &= (value != IGNORED) if field.is_label else torch.ones_like(wrong)
        if bool(wrong.any()):
            place = tuple(wrong.nonzero()[0].tolist())
            most = limits[place[-1]] if isinstance(limits, list) else limits
            where = f" at {list(place)}" if place else ""
            raise record.refuse(f"`{name}` has {int(value[place])}{where}: {_why(values, field)} allows 0 to {most}")


def _is_missing(value: Any, field: Field) -> bool:
    """Whether a cell holds nothing: no value, or blank text; of a label, not a number either."""
    return value is None or (isinstance(value, str) and not value.strip()) or (field.is_label and is_empty(value))


def _largest(values: Values, sizes: Mapping[str, int]) -> int | list[int] | None:
    """The largest value that is allowed, or one for each place of the last axis; ``None`` for any."""
    if isinstance(values, Ids):
        return [count - 1 for count in values.count] if isinstance(values.count, tuple) else values.count - 1
    if isinstance(values, MaskOf):
        return 1
    size = sizes.get(values.axis) if values.axis else None
    if size is None:
        return None
    return size - 1 if isinstance(values, IndexOf) else size


def _why(values: Values, field: Field) -> str:
    if isinstance(values, Ids):
        return "the number of classes" if field.is_label else "`ids`"
    return f"`{next(iter(values.written()))}` {values.axis!r}"


def _allows(axis: Axis, size: int) -> bool:
    """Whether rows may have a size: one that is padded may be smaller than the axis allows."""
    if is_padded(axis):
        return axis.most is None or size <= axis.most
    return axis.allows(size)


def is_padded(axis: Axis) -> bool:
    """Whether rows of several sizes can be put together: padding is declared, or nothing looks ahead to where it would be."""
    return axis.padding is not None or axis.order == "causal"


def _allowed(axis: Axis) -> str:
    if axis.sizes:
        return joined(list(map(str, axis.sizes)), "or")
    limits = f"{axis.least} or more" if axis.most is None else f"{axis.least} to {axis.most}"
    return limits if axis.multiple_of == 1 else f"multiples of {axis.multiple_of}, {limits}"


def as_tensor(record: Record, name: str, value: Any, field: Field) -> Tensor:
    """A value of a row as a tensor of the declared dtype.

    A tensor or an array must be of the declared kind of dtype, as what computes with it depends on that: floating point, whole numbers or
    truth values. Text and Python's numbers have no such kind.

    Raises:
        DataError: It is no number, or of another kind.
    """
    is_typed = isinstance(value, (Tensor, np.ndarray, np.generic))
    try:
        found = value if isinstance(value, Tensor) else torch.as_tensor(_numbers(value))
    except (ValueError, TypeError, RuntimeError, OverflowError):
        raise record.refuse(f"`{name}` must be numbers, got {_short(value)}") from None
    if not field.dtype:
        return found.detach()
    wanted = getattr(torch, field.dtype)
    # Labels are compared with outputs, not calculated with: a whole number is as good as a floating one.
    widens = _rank(found.dtype) < _rank(wanted) and (not is_typed or field.is_label or found.dtype == torch.bool)
    if not (_rank(found.dtype) == _rank(wanted) or widens):
        shown = str(found.dtype).removeprefix("torch.")
        raise record.refuse(f"`{name}` is {shown}, declared {field.dtype}: convert it in the data, or declare its `dtype`")
    return found.detach().to(device="cpu", dtype=wanted)


def _rank(dtype: torch.dtype) -> int:
    return 3 if dtype.is_complex else 2 if dtype.is_floating_point else 0 if dtype == torch.bool else 1


def _numbers(value: Any) -> Any:
    """Numbers as NumPy reads them; of a text those in it, as a cell of a table has them."""
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("["):
            return np.asarray(json.loads(text))
        parts = text.replace(",", " ").split()
        numbers = [float(part) if set(part.lower()) & set(".en") else int(part) for part in parts]
        return np.asarray(numbers[0] if len(numbers) == 1 else numbers)
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], Tensor):
        return torch.stack(list(value))
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value)
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype == np.float64 and not isinstance(value, np.generic) else array


def _short(value: Any) -> str:
    shown = repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= 60 else shown[:57] + '...'}"
