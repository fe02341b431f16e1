"""Which columns of a record hold what a task needs, and numbers and ids read from them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.data.record import Record
from harness.errors import did_you_mean

LABELS = ("labels", "label")
TARGETS = (*LABELS, "target")


def column(record: Record, names: Sequence[str], purpose: str) -> str:
    """The first of some columns that is there and holds a value.

    Args:
        record: The row.
        names: Columns that would do, the preferred one first.
        purpose: What it is needed for, in messages.

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
    raise record.refuse(f"no {' or '.join(f'`{name}`' for name in names)} for {purpose}.{near} It has {_listed(has)}")


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

    Args:
        record: The row.
        name: The column.
        finite: Whether all of them must be.

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

    Args:
        record: The row.
        name: The column.
        finite: Whether it must be.

    Raises:
        DataError: It is none.
    """
    value = record.fields[name]
    if not finite and value in (None, ""):
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


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "no columns"
    return ", ".join(f"`{name}`" for name in names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
