"""Rows that are not independent of each other: groups of them that a column names, and a test of their order where none does.

Rows of one session, user, passage or day resemble each other. A hundred rows of ten sessions say little more than ten rows do, and a test that
takes them for a hundred finds drift between any two samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError
from harness.wording import counted

if TYPE_CHECKING:
    from harness.data.dataset import Dataset

_FEWEST = 2


@dataclass(frozen=True)
class Groups:
    """Which rows belong together.

    Attributes:
        name: The column that says so.
        codes: The number of each row's group, int64 ``[N]``; a row without a value is a group by itself.
        count: How many groups there are.
        empty: How many rows have no value.
    """

    name: str
    codes: NDArray[np.int64]
    count: int
    empty: int = 0

    @classmethod
    def of(cls, values: Sequence[object], name: str, source: str = "the data") -> Groups:
        """The groups that a column names.

        Raises:
            DataError: All rows are of one group, so that nothing can be compared.
        """
        numbers: dict[object, int] = {}
        codes = np.empty(len(values), np.int64)
        empty = 0
        for place, value in enumerate(values):
            if _is_empty(value):
                codes[place] = -1 - empty
                empty += 1
            else:
                codes[place] = numbers.setdefault(str(value), len(numbers))
        codes[codes < 0] = len(numbers) - 1 - codes[codes < 0]
        count = len(numbers) + empty
        if count < _FEWEST <= len(values):
            raise DataError(
                f"{source}: all {len(values):,} rows have the same {name!r}, so nothing says how rows of different groups differ: "
                "name a column of sessions, users, passages or days by `group`"
            )
        return cls(name, codes, count, empty)

    @classmethod
    def of_data(cls, data: Dataset, name: str | None) -> Groups | None:
        """The groups of a dataset; ``None`` where no column is named.

        Raises:
            DataError: There is no such column, or all rows are of one group.
        """
        return None if name is None else cls.of(data.column(name), name, data.origin.name)

    @property
    def has_several(self) -> bool:
        """Whether any group has more than one row."""
        return self.count < len(self.codes)

    @property
    def one_of_each(self) -> NDArray[np.intp]:
        """A row of each group, the same in every run, ``[G]``, ascending.

        Rows of different groups are independent, so that every test holds its level on them whatever the rows of a group have in common
        (within-cluster resampling: Hoffman, Sen and Weinberg, Biometrika 88, 2001). A profile is counts, whose groups nobody could permute
        later; the price is what the other rows of a group would have added.
        """
        order = np.random.default_rng(0).permutation(len(self.codes))
        _, first = np.unique(self.codes[order], return_index=True)
        return np.sort(order[first])

    @property
    def said(self) -> str:
        """``judged by 1 row of each of 100 groups of `session```; where rows have no value, how many."""
        named = self.count - self.empty
        rest = f"{counted(self.empty, 'row')} without a `{self.name}`"
        if not named:
            return f"no row has a `{self.name}`, so each counts by itself, as if rows were independent"
        return f"judged by 1 row of each of {counted(named, 'group')} of `{self.name}`" + (
            f", and by {rest}" if self.empty else ""
        )


def one_row_a_group(data: Dataset, groups: Groups | None) -> Dataset:
    """The rows that count as independent: one of each group, or all."""
    return data if groups is None or not groups.has_several else data.chosen(groups.one_of_each.tolist())


def _is_empty(value: object) -> bool:
    return value is None or value == "" or value != value


LOOKED_AT = 2_000
"""Rows, from the first, whose order is looked at."""

NOTABLE = 0.1
"""The likeness of neighbours above which rates would be off: variances by a fifth or more."""

_SORTED = 0.9
"""From this correlation with the number of the row on, a column is what the rows were sorted by."""

_LEVEL = 0.01
_MOST_COLUMNS = 50
_MOST_DRAWS = 9_999
_FEWEST_ROWS = 20


@dataclass(frozen=True)
class OrderDependence:
    """Neighbouring rows that resemble each other more than rows in random order would.

    Attributes:
        column: In what.
        likeness: Correlation of the ranks of neighbours; of levels the share of equal neighbours, less what chance gives (kappa).
        p: Against rows in random order.
    """

    column: str
    likeness: float
    p: float

    @property
    def message(self) -> str:
        """What follows, in one clause."""
        return (
            f"neighbouring rows resemble each other in `{self.column}` (correlation {self.likeness:.2f}), so they are not independent and "
            "the error rates do not hold: name the column of their session, user, passage or day by `group`"
        )


def order_dependence(columns: Mapping[str, NDArray[Any]]) -> OrderDependence | None:
    """The column in which neighbouring rows are most alike, where that is neither small nor chance; ``None`` where there is none.

    The statistic is the serial correlation of ranks (Wald and Wolfowitz, Annals of Mathematical Statistics 14, 1943), of levels the share of
    equal neighbours; its p-value comes from rows in random order, corrected for the number of columns. Rows that are sorted by a column, or
    nearly so, as by a time beside it, say nothing by their order.

    Args:
        columns: Numbers or levels by name, ``[N]`` each, in the order of the rows.
    """
    read = {name: _codes(column[:LOOKED_AT]) for name, column in list(columns.items())[:_MOST_COLUMNS]}
    if not read or any(_is_sorted(codes) for codes, _ in read.values()):
        return None
    found = {name: _likeness(codes, is_level) for name, (codes, is_level) in read.items()}
    name = max(found, key=lambda name: found[name])
    codes, is_level = read[name]
    if len(codes) < _FEWEST_ROWS or found[name] < NOTABLE:
        return None
    draws = min(_MOST_DRAWS, round(2 * len(read) / _LEVEL))
    generator = np.random.default_rng(0)
    larger = sum(_likeness(generator.permutation(codes), is_level) >= found[name] for _ in range(draws))
    p = min(1.0, len(read) * (larger + 1) / (draws + 1))
    return OrderDependence(name, found[name], p) if p <= _LEVEL else None


def first_rows(parts: Iterable[Mapping[str, NDArray[Any]]], most: int = LOOKED_AT) -> dict[str, NDArray[Any]]:
    """The columns of the first rows, of parts of a table in their order."""
    kept: dict[str, list[NDArray[Any]]] = {}
    rows = 0
    for part in parts:
        for name, column in part.items():
            kept.setdefault(name, []).append(column)
        rows += len(next(iter(part.values()))) if part else 0
        if rows >= most:
            break
    return {name: np.concatenate(columns)[:most] for name, columns in kept.items()}


def _codes(column: NDArray[Any]) -> tuple[NDArray[np.float64], bool]:
    """Ranks, those of equal values alike, or the number of each level; and whether they are levels."""
    is_level = column.dtype.kind not in "fiub"
    values = np.array([str(value) for value in column]) if is_level else column.astype(np.float64)
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = where if is_level else (np.cumsum(counts) - (counts - 1) / 2)[where]
    return np.asarray(ranks, np.float64), is_level


def _is_sorted(codes: NDArray[np.float64]) -> bool:
    """Whether a column rises or falls with the number of the row, by the correlation of both."""
    rows = np.arange(len(codes)) - (len(codes) - 1) / 2
    centred = codes - codes.mean() if len(codes) else codes
    spread = math.sqrt(float(centred @ centred) * float(rows @ rows))
    steps = np.diff(codes)
    is_sorted = bool(steps.any()) and bool((steps >= 0).all() or (steps <= 0).all())
    return is_sorted or (len(codes) >= _FEWEST_ROWS and spread > 0 and abs(float(centred @ rows)) >= _SORTED * spread)


def _likeness(codes: NDArray[np.float64], is_level: bool) -> float:
    if not is_level:
        centred = codes - codes.mean()
        total = float(centred @ centred)
        return float(centred[:-1] @ centred[1:]) / total if total else 0.0
    shares = np.unique(codes, return_counts=True)[1] / len(codes)
    by_chance = float(shares @ shares)
    return (float((codes[1:] == codes[:-1]).mean()) - by_chance) / (1 - by_chance) if by_chance < 1 else 0.0
