"""The cells of a row: which columns hold what a task needs; texts, numbers, token ids and class labels read from them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.data import Record, says_no_value
from harness.data.tokens import Tokenizer
from harness.errors import DataError, did_you_mean
from harness.tasks import TaskSpec
from harness.wording import listed


def column(record: Record, names: Sequence[str], purpose: str) -> str:
    """The first of some columns that is there and holds a value.

    Raises:
        DataError: There is none of them.
    """
    for name in names:
        if record.fields.get(name) is not None:
            return name
    missing = next((name for name in names if name in record.fields), None)
    if missing is not None:
        raise record.refuse(f"`{missing}` is empty")
    has = [name for name in record.fields if isinstance(name, str)]
    near = next((hint for hint in (did_you_mean(name, has) for name in names) if hint), "")
    raise record.refuse(
        f"no {' or '.join(f'`{name}`' for name in names)} for {purpose}.{near} It has {listed(has, 8) or 'no columns'}"
    )


def is_empty(value: Any) -> bool:
    """Whether a cell holds nothing: no value, blank text, or NaN."""
    return value is None or (isinstance(value, str) and not value.strip()) or (isinstance(value, float) and math.isnan(value))


def text(record: Record, name: str) -> str:
    """A text that is not blank.

    Raises:
        DataError: It is no text, or blank.
    """
    value = record.fields[name]
    if not isinstance(value, str):
        raise record.refuse(f"`{name}` must be text, got {type(value).__name__}")
    if not value.strip():
        raise record.refuse(f"`{name}` is blank")
    return value


def whole_numbers(record: Record, name: str) -> Tensor:
    """A list of whole numbers as int64 ``[N]``: a list, an array, or a string such as ``1 2 3`` or ``[1, 2, 3]``.

    Raises:
        DataError: It is something else.
    """
    array = _array(record, name)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise record.refuse(f"`{name}` must be a list of whole numbers, got {_short(record.fields[name])}")
    return torch.from_numpy(array.astype(np.int64))


def numbers(record: Record, name: str, *, finite: bool = True) -> Tensor:
    """Numbers as a float32 tensor of whatever shape.

    Raises:
        DataError: They are none, or not all finite.
    """
    array = _array(record, name)
    if not np.issubdtype(array.dtype, np.number) and array.dtype != np.bool_:
        raise record.refuse(f"`{name}` must be numbers, got {_short(record.fields[name])}")
    tensor = torch.from_numpy(array.astype(np.float32))
    if finite and not bool(tensor.isfinite().all()):
        raise record.refuse(f"`{name}` holds NaN, infinity or a number beyond float32")
    return tensor


def number(record: Record, name: str, *, finite: bool = True) -> float:
    """A number, from a string too; NaN where it is missing and need not be finite.

    Raises:
        DataError: It is none.
    """
    value = record.fields[name]
    if not finite and (value is None or (isinstance(value, str) and says_no_value(value))):
        return math.nan
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        raise record.refuse(f"`{name}` must be a number, got {_short(value)}") from None
    if finite and not abs(found) <= torch.finfo(torch.float32).max:
        raise record.refuse(f"`{name}` must be a finite number of float32, got {_short(value)}")
    return found


def items(record: Record, name: str) -> list[Any]:
    """A list: a list, an array, or a string of items parted by spaces.

    Raises:
        DataError: It is something else.
    """
    value = record.fields[name]
    if isinstance(value, str):
        return list(json.loads(value)) if _is_json_list(value) else value.split()
    if isinstance(value, (Tensor, np.ndarray)):
        return list(value.tolist())
    if not isinstance(value, (list, tuple)):
        raise record.refuse(f"`{name}` must be a list, got {_short(value)}")
    return list(value)


def _array(record: Record, name: str) -> np.ndarray:
    value = record.fields[name]
    if isinstance(value, Tensor):
        return value.numpy()
    if isinstance(value, str):
        value = _parsed(record, name, value)
    try:
        return np.asarray(value)
    except (ValueError, OverflowError):
        raise record.refuse(f"`{name}` must be numbers in even rows, got {_short(value)}") from None


def _parsed(record: Record, name: str, value: str) -> Any:
    if _is_json_list(value):
        return json.loads(value)
    try:
        return [float(item) if "." in item else int(item) for item in value.replace(",", " ").split()]
    except ValueError:
        raise record.refuse(f"`{name}` must be numbers, got {_short(value)}") from None


def _is_json_list(value: str) -> bool:
    try:
        return isinstance(json.loads(value), list)
    except ValueError:
        return False


def _short(value: Any) -> str:
    shown = repr(value.tolist() if isinstance(value, Tensor) else value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def read_text(record: Record, name: str, tokenizer: Tokenizer | None, value: str | None = None) -> list[int]:
    """The ids of a column's text, or of a part of it.

    Raises:
        DataError: It is no text, blank, or in a file whose first row has token ids instead.
    """
    if tokenizer is None:
        raise record.refuse(f"`{name}` is text, but the first row has `input_ids`: a file has one or the other")
    return tokenizer.encode(text(record, name) if value is None else value)


def token_ids(record: Record, name: str, task: TaskSpec) -> Tensor:
    """The real tokens of a row, int64 ``[S]``."""
    return unpadded(record, name, task)[0]


def unpadded(record: Record, name: str, task: TaskSpec) -> tuple[Tensor, Tensor]:
    """The real tokens of a row, and which of its positions they are (bool).

    Padding is what ``attention_mask`` says, or without one the padding tokens at the end.
    """
    ids = checked_ids(record, name, task)
    if record.fields.get("attention_mask") is not None:
        mask = whole_numbers(record, "attention_mask")
        if mask.shape != ids.shape:
            raise record.refuse(f"{len(mask)} values of `attention_mask` for {len(ids)} `{name}`")
        real = mask.bool()
    else:
        padding = ids == task.pad_token_id if task.pad_token_id is not None else torch.zeros_like(ids).bool()
        real = ~padding.flip(0).long().cumprod(0).bool().flip(0)
    return ids[real], real


def checked_ids(record: Record, name: str, task: TaskSpec) -> Tensor:
    """Token ids within the vocabulary, int64 ``[S]``."""
    ids = whole_numbers(record, name)
    check_range(record, name, ids, task)
    return ids


def check_range(record: Record, name: str, ids: Tensor, task: TaskSpec) -> None:
    """Refuses ids outside the vocabulary."""
    # The labels of a seq2seq row are ids of its target, those of any other of its input.
    vocab = task.vocabulary_of(name if name == "input_ids" else task.causal_field)
    assert vocab is not None
    wrong = ((ids < 0) | (ids >= vocab)).nonzero().flatten()
    if len(wrong):
        at, key = int(wrong[0]), "vocab_size" if vocab == task.vocab_size else "target_vocab_size"
        raise record.refuse(f"`{name}` has {int(ids[at])} at position {at}: `{key}` {vocab} allows 0 to {vocab - 1}")


UNKNOWN_CLASS = -(1 << 30)
"""The label of a row whose class the model does not know, in production data: there is no loss to compute, and every answer is wrong. Of several
such classes the second has one less, and so on."""


@dataclass(frozen=True)
class Classes:
    """What the labels of a task are called.

    Attributes:
        count: ``num_classes``.
        names: The classes by id; empty where the data has ids.
    """

    count: int
    names: tuple[str, ...] = ()

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {name: id for id, name in enumerate(self.names)}

    @staticmethod
    def of(source: str, labels: Iterable[tuple[Record, Any]], count: int) -> Classes:
        """Finds the classes in the labels of the training split; reads no further than the first where that is an id.

        Raises:
            DataError: The labels have more names than that.
        """
        names: set[str] = set()
        for _, label in labels:
            if not names and whole_number(label) is not None:
                return Classes(count)
            names.add(str(label))
            if len(names) > count:
                shown = ", ".join(repr(name) for name in sorted(names)[:8])
                raise DataError(f"{source}: the labels have more than {count} names (`num_classes`): {shown} …")
        return Classes(count, tuple(sorted(names)))

    def is_unknown(self, label: Any) -> bool:
        """Whether a label is none of the classes, though written as they are: another name, or a number out of range."""
        if self.names:
            return str(label) not in self._ids
        number = whole_number(label)
        return number is not None and not 0 <= number < self.count

    def id_of(self, record: Record, label: Any, name: str = "label") -> int:
        """The id of a label.

        Raises:
            DataError: It is no class of the task.
        """
        if self.names:
            if str(label) not in self._ids:
                near = did_you_mean(label, self.names)
                raise record.refuse(f"`{name}` {label!r} is not a class.{near} The classes are {', '.join(self.names)}")
            return self._ids[str(label)]
        number = whole_number(label)
        if number is None:
            raise record.refuse(f"`{name}` must be a class id (a whole number, as the first label is), got {label!r}")
        if not 0 <= number < self.count:
            raise record.refuse(f"`{name}` {number} is out of range: `num_classes` {self.count} allows 0 to {self.count - 1}")
        return number


def whole_number(value: Any) -> int | None:
    """A whole number in whatever form files hold one (``3``, ``"3"``, ``3.0``), or ``None``."""
    if isinstance(value, (Tensor, np.generic)):
        value = value.tolist()
    if isinstance(value, str):
        try:
            value = float(value) if "." in value else int(value)
        except ValueError:
            return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return int(value) if isinstance(value, (int, bool)) else None
