"""Values on their way to being counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray


class Values(Protocol):
    """Values of one feature.

    Attributes:
        kind: Its kind of feature.
    """

    kind: ClassVar[str]

    @property
    def nbytes(self) -> int:
        """Memory taken, about."""
        ...


@dataclass(frozen=True)
class Numbers:
    """Values of a numeric feature; NaN where one is missing.

    Attributes:
        values: float64 ``[N]``.
    """

    values: NDArray[np.float64]

    kind: ClassVar[str] = "numeric"

    @property
    def nbytes(self) -> int:
        """Memory taken."""
        return self.values.nbytes


@dataclass(frozen=True)
class Levels:
    """Values of a categorical feature, already counted.

    Attributes:
        counts: Values by level.
        missing: Values without one.
    """

    counts: Mapping[str, int]
    missing: int = 0

    kind: ClassVar[str] = "categorical"

    @property
    def nbytes(self) -> int:
        """Memory taken, about."""
        return 120 * len(self.counts)


@dataclass(frozen=True)
class Ids:
    """Values of a categorical feature whose levels are numbered, such as tokens and classes.

    Attributes:
        ids: int64 ``[N]``; a negative one is a missing value.
        size: Ids are below this.
        rows: The row of each value, int64 ``[N]``, where rows have several.
        names: The levels' names by id; the ids themselves where it is empty.
    """

    ids: NDArray[np.int64]
    size: int
    rows: NDArray[np.int64] | None = None
    names: tuple[str, ...] = ()

    kind: ClassVar[str] = "categorical"

    @property
    def nbytes(self) -> int:
        """Memory taken."""
        return self.ids.nbytes + (0 if self.rows is None else self.rows.nbytes)


@dataclass(frozen=True)
class Vectors:
    """Values that are vectors, such as embeddings.

    Attributes:
        values: Floating, ``[N, D]``.
    """

    values: NDArray[np.floating]

    kind: ClassVar[str] = "vector"

    @property
    def nbytes(self) -> int:
        """Memory taken."""
        return self.values.nbytes


SCORES = "score."
"""What the names of features begin with that need a label."""


@dataclass(frozen=True)
class Block:
    """Some rows, measured.

    Attributes:
        rows: How many.
        values: By feature.
        left_out: Columns that are no features.
        unlabelled: Which rows have no label, bool ``[rows]``, where others have one; ``None`` where there are none such.
    """

    rows: int
    values: Mapping[str, Values]
    left_out: tuple[str, ...] = ()
    unlabelled: NDArray[np.bool_] | None = None

    def counted(self, name: str) -> Values:
        """The values of a feature that count: a score of a row without a label says nothing, and is not missing."""
        values = self.values[name]
        if self.unlabelled is None or not name.startswith(SCORES) or not isinstance(values, Numbers):
            return values
        return Numbers(np.ascontiguousarray(values.values[~self.unlabelled]))

    @property
    def nbytes(self) -> int:
        """Memory taken, about."""
        return sum(values.nbytes for values in self.values.values())


def is_missing(value: Any) -> bool:
    """Whether a value is None, NaN, NaT, or a library's own word for it, none of which equals itself."""
    if value is None:
        return True
    try:
        return not bool(value == value)
    except (TypeError, ValueError):  # a comparison with a missing value may itself be neither true nor false
        return True
