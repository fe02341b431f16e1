"""The table of feature kinds, and the kind of a column.

A new kind is a class in its own file, as in ``numeric.py``, and a line in this table. A new drift statistic is a function, and an entry in
the ``statistics`` of the kind that it compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.data.readers.arrow import TextColumn
from harness.errors import ProfileError
from harness.monitoring.features import FeatureKind
from harness.monitoring.features.categorical import Categorical, named_levels
from harness.monitoring.features.counts import FeatureCounts
from harness.monitoring.features.numeric import Numeric
from harness.monitoring.features.values import Block, Levels, Values
from harness.monitoring.features.vectors import Vector

FEATURE_KINDS: dict[str, FeatureKind[Any]] = {kind.name: kind for kind in (Categorical(), Numeric(), Vector())}
"""The kinds by name. A column is of the last one that accepts it."""

Column = Any
"""An array ``[N]``, or ``[N, D]`` for vectors; of NumPy, or with ``__array__``."""


def kind_named(name: str) -> FeatureKind[Any]:
    """The kind of a name.

    Raises:
        ProfileError: There is none.
    """
    if name not in FEATURE_KINDS:
        raise ProfileError(f"the profile has a feature of kind {name!r}; known kinds are {', '.join(FEATURE_KINDS)}")
    return FEATURE_KINDS[name]


def kind_of(feature: FeatureCounts | Values) -> FeatureKind[Any]:
    """The kind of counts, or of values."""
    return kind_named(feature.kind)


def kinds_of(columns: Mapping[str, Column]) -> dict[str, str]:
    """The kind of each column by name, by its type, and for whole numbers by how many there are.

    Texts and truth values are levels. Floats and dates are numbers, however few there are.

    Raises:
        ProfileError: A column is of no kind.
    """
    return {name: _kind(name, np.asarray(column)) for name, column in columns.items()}


def values_of(name: str, column: Column, kind: str) -> Values:
    """A column as values of a kind.

    A text in a numeric column that is no number counts as NaN.

    Raises:
        ProfileError: The column has the wrong number of axes.
    """
    if kind == Categorical.counts.kind and isinstance(column, TextColumn):
        return Levels(*named_levels(*column.counted()))
    array = np.asarray(column)
    axes = 2 if kind == "vector" else 1
    if array.ndim != axes:
        raise ProfileError(
            f"column {name!r} has shape {list(array.shape)}: a {kind} column has {'two axes' if axes == 2 else 'one axis'}"
        )
    return kind_named(kind).values(array)


def block_of(columns: Mapping[str, Column], kinds: Mapping[str, str]) -> Block:
    """Rows of a table as values; columns without a kind are left out.

    Raises:
        ProfileError: The columns are of different lengths, or one has values that cannot be counted.
    """
    values = {name: values_of(name, columns[name], kind) for name, kind in kinds.items() if name in columns}
    lengths = {name: len(columns[name]) for name in values}
    rows = next(iter(lengths.values()), 0)
    odd = next((name for name, length in lengths.items() if length != rows), None)
    if odd is not None:
        raise ProfileError(f"columns of different lengths: {next(iter(lengths))!r} has {rows} rows, {odd!r} has {lengths[odd]}")
    return Block(rows, values, tuple(name for name in columns if name not in values))


def _kind(name: str, array: NDArray[Any]) -> str:
    found = next((kind.name for kind in reversed(FEATURE_KINDS.values()) if kind.accepts(array)), None)
    if found is None:
        raise ProfileError(f"column {name!r} has shape {list(array.shape)}: give one value or one vector a row")
    return found
