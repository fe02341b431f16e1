"""Columns of a table as values to be counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.monitoring.errors import ProfileError
from harness.monitoring.profiles.features import Kind
from harness.monitoring.profiles.levels import level_name
from harness.monitoring.profiles.values import Block, Levels, Numbers, Values, Vectors

Column = Any
"""An array ``[N]``, or ``[N, D]`` for vectors; of NumPy, or with ``__array__``."""

FEW_LEVELS = 20
"""Whole numbers with no more distinct values than this are levels, where each occurs five times or more on average."""


def kinds_of(columns: Mapping[str, Column]) -> dict[str, Kind]:
    """What each column is, by its type, and for whole numbers by how many there are.

    Texts and truth values are levels. Floats and dates are numbers, however few there are.
    """
    return {name: _kind(np.asarray(column)) for name, column in columns.items()}


def block_of(columns: Mapping[str, Column], kinds: Mapping[str, Kind]) -> Block:
    """Rows of a table as values; columns without a kind are left out.

    Raises:
        ProfileError: The columns are of different lengths, or one has values that cannot be counted.
    """
    values = {name: values_of(name, np.asarray(columns[name]), kind) for name, kind in kinds.items() if name in columns}
    lengths = {name: len(columns[name]) for name in values}
    rows = next(iter(lengths.values()), 0)
    odd = next((name for name, length in lengths.items() if length != rows), None)
    if odd is not None:
        raise ProfileError(f"columns of different lengths: {next(iter(lengths))!r} has {rows} rows, {odd!r} has {lengths[odd]}")
    return Block(rows, values, tuple(name for name in columns if name not in values))


def values_of(name: str, array: NDArray[Any], kind: Kind) -> Values:
    """A column as values of a kind.

    A text in a numeric column that is no number counts as NaN.

    Raises:
        ProfileError: The column has the wrong number of axes.
    """
    if array.ndim != (2 if kind == "vector" else 1):
        raise ProfileError(
            f"column {name!r} has shape {list(array.shape)}: a {kind} one has {'two axes' if kind == 'vector' else 'one'}"
        )
    if kind == "vector":
        return Vectors(array.astype(np.float64, copy=False))
    return Levels(*_levels(array)) if kind == "categorical" else Numbers(_numbers(array))


def _kind(array: NDArray[Any]) -> Kind:
    if array.ndim == 2:
        return "vector"
    if array.dtype.kind in "iu":
        return "categorical" if _has_few_levels(array) else "numeric"
    if array.dtype.kind == "O":
        return "numeric" if all(_is_number(value) or _is_missing(value) for value in array) else "categorical"
    return "numeric" if array.dtype.kind in "fmM" else "categorical"


def _has_few_levels(array: NDArray[Any]) -> bool:
    distinct = len(np.unique(array))
    return distinct <= FEW_LEVELS and 5 * distinct <= len(array)


def _numbers(array: NDArray[Any]) -> NDArray[np.float64]:
    if array.dtype.kind in "mM":
        whole = array.astype(f"{array.dtype.kind}8[us]").astype(np.int64)  # whatever unit the column came in
        return np.where(np.isnat(array), np.nan, whole.astype(np.float64))
    if array.dtype.kind in "OSU":
        return np.fromiter((_float(value) for value in array), np.float64, len(array))
    return array.astype(np.float64, copy=False)


def _levels(array: NDArray[Any]) -> tuple[dict[str, int], int]:
    """Values by level, and how many are missing."""
    levels: Counter[str] = Counter()
    missing = 0
    for value, count in _distinct(array).items():
        if _is_missing(value):
            missing += count
        else:
            levels[level_name(value)] += count
    return dict(levels), missing


def _distinct(array: NDArray[Any]) -> Counter[Any]:
    if array.dtype.kind == "O":
        values = array.tolist()
        try:
            return Counter(values)
        except TypeError:  # lists, say
            return Counter(map(str, values))
    distinct, counts = np.unique(array, return_counts=True)
    return Counter(dict(zip(distinct.tolist(), counts.tolist(), strict=True)))


def _is_number(value: Any) -> bool:
    return isinstance(value, (Real, Decimal)) and not isinstance(value, (bool, np.bool_))


def _is_missing(value: Any) -> bool:
    """Whether a value is None, NaN, NaT, or a library's own word for it, none of which equals itself."""
    if value is None:
        return True
    try:
        return not bool(value == value)
    except (TypeError, ValueError):  # a comparison with a missing value may itself be neither true nor false
        return True


def _float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")
