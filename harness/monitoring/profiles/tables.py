"""Tables, read some rows at a time: the kind of each column, and what is measured of dates."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.data import says_no_value
from harness.data.readers.arrow import ParquetFile, TextColumn, arrow_columns
from harness.errors import ProfileError, did_you_mean
from harness.monitoring.features.kinds import Column, block_of, kinds_of
from harness.monitoring.features.values import Block, is_missing, text_hashes
from harness.monitoring.profiles.texts import TEXT_PARTS
from harness.monitoring.profiles.windows import ChosenWindows, window_column, window_labels

if TYPE_CHECKING:
    from harness.data import Reader

Columns = Mapping[str, Column]

ROWS_AT_ONCE = 1 << 16


COLUMNS_AT_ONCE = 100
"""Columns of a Parquet file that are read together: each takes up to two megabytes, however few rows are read at once."""


@dataclass(frozen=True)
class ColumnGroup:
    """Some columns of a Parquet file."""

    file: ParquetFile
    names: tuple[str, ...]


@dataclass(frozen=True)
class ChangedTable:
    """A table whose parts are changed as they are read: columns that are measured, or some of its rows.

    Attributes:
        data: What ``tables_of`` takes.
        change: From a part to another.
    """

    data: Any
    change: Callable[[Columns], Columns]

    def __iter__(self) -> Iterator[Columns]:
        """The changed parts."""
        return map(self.change, tables_of(self.data))


def column_groups(data: Any) -> list[tuple[Any, tuple[str, ...]]]:
    """A table in parts of its columns, so that memory does not depend on how many there are; whole where it is no Parquet file.

    Returns:
        What ``tables_of`` takes, and the names of its columns.
    """
    reader = reader_of(Path(data)) if isinstance(data, (str, Path)) else None
    if not isinstance(reader, ParquetFile):
        return [(data, tuple(next(iter(tables_of(data)), {})))]
    names = reader.names
    starts = range(0, len(names), COLUMNS_AT_ONCE)
    groups = [tuple(names[start : start + COLUMNS_AT_ONCE]) for start in starts]
    return [(ColumnGroup(reader, group), group) for group in groups]


def column_of(feature: str, columns: Sequence[str]) -> str:
    """The column that a feature is of: itself, or the one whose text or moment it is a part of."""
    return feature if feature in columns else feature.rpartition(".")[0]


def table_blocks(
    data: Any, kinds: Mapping[str, str] | None, categorical: Iterable[str] = (), without: Iterable[str] = ()
) -> Iterator[Block]:
    """The rows of a table.

    Args:
        data: What ``tables_of`` takes.
        kinds: What each feature is; by default as the first rows have it.
        categorical: Columns that are levels, whatever their first rows look like.
        without: Columns that are no features.

    Raises:
        ProfileError: It is no table, or there is no such column.
    """
    tables = tables_of(data)
    first = next(tables, None)
    if first is None:
        return
    are_cells = _are_cells(data)
    if kinds is None:
        kinds = _chosen(first, list(categorical), set(without), are_cells)
    for table in chain([first], tables):
        block = block_of(_features(table, kinds, are_cells), kinds)
        left_out = tuple(name for name in table if name not in kinds)
        yield Block(block.rows, block.values, left_out, hashes=text_hashes(table, kinds, TEXT_PARTS))


def window_blocks(
    data: Any, kinds: Mapping[str, str], asked: str, chosen: ChosenWindows, stride: int = 1
) -> Iterator[tuple[str, Block]]:
    """The rows of a table by the window that they are in, some at a time; those that are in none are left out.

    Args:
        data: What ``tables_of`` takes.
        kinds: What each feature is.
        asked: The column of dates, or of the names of windows, as ``window_column`` takes it.
        chosen: Told of all windows, and says which are wanted.
        stride: Only each such row is measured, as enough of a very long table.

    Raises:
        ProfileError: There is no such column, or a unit is asked for and it has no dates.
    """
    (name, unit), are_cells = window_column(asked), _are_cells(data)
    for table in tables_of(data):
        if name not in table:
            raise ProfileError(f"`windows`: no column {name!r}.{did_you_mean(name, table)}")
        read = _parsed(table[name], are_cells) if _are_texts(table[name]) else None
        labels = window_labels(np.asarray(table[name] if read is None else read), unit)
        for label, count in zip(*(each.tolist() for each in np.unique(labels[labels != ""], return_counts=True)), strict=True):
            if not chosen.add(label, count):
                continue
            rows = (labels == label) & (np.arange(len(labels)) % stride == 0)
            part = {
                each: column.chosen(rows) if isinstance(column, TextColumn) else np.asarray(column)[rows]
                for each, column in table.items()
            }
            yield label, block_of(_features(part, kinds, are_cells), kinds)


def _are_cells(data: Any) -> bool:
    """Whether all values are texts, so that numbers among them have to be recognised."""
    if isinstance(data, ChangedTable):
        return _are_cells(data.data)
    return isinstance(data, (str, Path)) and reader_of(Path(data)).are_texts


def tables_of(data: Any) -> Iterator[Columns]:
    """A table by parts of a bounded number of rows.

    Args:
        data: Columns by name, a data frame, Arrow data, the path of a file, or an iterable of any of these.

    Raises:
        ProfileError: It is none of these.
        DataError: The file is missing or damaged.
    """
    if isinstance(data, (str, Path)):
        yield from reader_of(Path(data)).columns(ROWS_AT_ONCE)
    elif isinstance(data, ColumnGroup):
        yield from data.file.columns_named(data.names, ROWS_AT_ONCE)
    elif is_arrow(data):
        yield from _arrow_parts(data)
    elif isinstance(data, Mapping) or hasattr(data, "columns"):
        yield from _parts(data if isinstance(data, Mapping) else {str(name): data[name] for name in data.columns})
    elif isinstance(data, Iterable) and not isinstance(data, np.ndarray):
        for part in data:
            yield from tables_of(part)
    else:
        raise ProfileError(
            f"a {type(data).__name__} cannot be profiled: give columns by name, a data frame, Arrow data, a dataset or a file"
        )


def reader_of(path: Path) -> Reader:
    """What reads a file as a table."""
    from harness.data.readers import table_of

    return table_of(path)


def is_arrow(data: Any) -> bool:
    """Whether something is a table, a batch, a reader or a dataset of Arrow."""
    return type(data).__module__.partition(".")[0] == "pyarrow"


def _arrow_parts(data: Any) -> Iterator[Columns]:
    """The columns of a ``RecordBatch``, a ``Table``, a ``RecordBatchReader`` (which can be read once) or a ``pyarrow.dataset.Dataset``."""
    batches = data.to_batches() if hasattr(data, "to_batches") else data if hasattr(data, "read_next_batch") else [data]
    for batch in batches:
        for start in range(0, batch.num_rows, ROWS_AT_ONCE):
            yield arrow_columns(batch.slice(start, ROWS_AT_ONCE))


def _parts(columns: Columns) -> Iterator[Columns]:
    arrays = {name: np.asarray(column) for name, column in columns.items()}
    flat = next((name for name, array in arrays.items() if not array.ndim), None)
    if flat is not None:
        raise ProfileError(f"column {flat!r} is a single value, not an array of one a row")
    rows = max((len(array) for array in arrays.values()), default=0)
    for start in range(0, rows, ROWS_AT_ONCE) or [0]:
        yield {name: array[start : start + ROWS_AT_ONCE] for name, array in arrays.items()}


def _chosen(first: Columns, categorical: list[str], without: set[str], are_cells: bool) -> dict[str, str]:
    """What each feature is, by the first rows."""
    for key, asked in (("categorical", categorical), ("without", without)):
        unknown = next((name for name in asked if name not in first), None)
        if unknown is not None:
            raise ProfileError(f"`{key}`: no column {unknown!r}.{did_you_mean(unknown, first)}")
    kinds: dict[str, str] = {}
    for name, column in first.items():
        if name in categorical:
            kinds[name] = "categorical"
        elif name not in without:
            kinds |= _kinds_of_column(name, column, are_cells)
    return kinds


def _kinds_of_column(name: str, column: Column, are_cells: bool) -> dict[str, str]:
    read = _parsed(column, are_cells) if _are_texts(column) else None
    if read is None and _is_own_level(column):
        return {f"{name}.{part}": kind for part, (kind, _) in TEXT_PARTS.items()}
    array = np.asarray(column if read is None else read)
    found = kinds_of({name: array})
    return found | ({f"{name}.{HOUR}": "numeric"} if array.dtype.kind == "M" and _has_hours(array) else {})


def _features(table: Columns, kinds: Mapping[str, str], are_cells: bool) -> dict[str, Column]:
    """The columns that are features, numbers among texts read; and what is measured of the others."""
    found: dict[str, Column] = {}
    for name, kind in kinds.items():
        column, part = table.get(name), ""
        if column is None:
            source, _, part = name.rpartition(".")
            column = table.get(source)
        if column is None:
            continue
        if part == HOUR:
            found[name] = _hours(column, are_cells)
        elif part in TEXT_PARTS:
            found[name] = TEXT_PARTS[part][1](column)
        elif part:
            continue
        elif kind == "numeric" and _are_texts(column):
            read = _parsed(column, are_cells)
            found[name] = column if read is None else read
        else:
            found[name] = column
    return found


def _are_texts(column: Column) -> bool:
    if isinstance(column, TextColumn):
        return True
    array = np.asarray(column)
    return array.ndim == 1 and array.dtype.kind in "OU" and any(isinstance(value, str) for value in array.flat)


_DAY = re.compile(r"\d{4}-\d\d-\d\d")


def _parsed(column: Column, are_cells: bool) -> NDArray[Any] | None:
    """Texts as the numbers (of a file of texts) or the moments that they all are; ``None`` where some are neither."""
    if isinstance(column, TextColumn):
        return column.parsed()
    values = np.asarray(column).tolist()
    if not all(isinstance(value, str) or is_missing(value) for value in values):
        return None
    there = [isinstance(value, str) and not (are_cells and says_no_value(value)) for value in values]
    texts = [value for value, is_there in zip(values, there, strict=True) if is_there]
    if are_cells:
        for kind in (np.int64, np.float64):
            with suppress(ValueError, OverflowError):
                numbers = np.array(texts, kind)
                return numbers if len(texts) == len(values) else _spread(there, numbers)
    if texts and all(_DAY.match(text) for text in texts):
        with suppress(ValueError), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # moments of another zone become those of UTC, which is what is wanted
            return np.array(
                [value if is_there else "NaT" for value, is_there in zip(values, there, strict=True)], "datetime64[us]"
            )
    return None


def first_unread(column: Column, are_dates: bool) -> str | None:
    """The first text of a column that is no number, or no date; ``None`` where there is none."""
    for text in np.asarray(column).tolist():
        if isinstance(text, str) and not says_no_value(text) and not (_DAY.match(text) if are_dates else _is_number(text)):
            return text
    return None


def _is_number(text: str) -> bool:
    with suppress(ValueError):
        float(text)
        return True
    return False


def cells(values: Sequence[Any]) -> NDArray[Any]:
    """The values of a column of records: numbers and moments where texts are these, and an array of objects otherwise."""
    known = [value for value in values if not is_missing(value)]
    if known and all(isinstance(value, date) for value in known):
        return np.array(["NaT" if is_missing(value) else value.isoformat() for value in values], "datetime64[us]")
    if known and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in known):
        return np.array([np.nan if is_missing(value) else value for value in values])
    column = np.array([None if value == "" else value for value in values] + [None], object)[:-1]
    read = _parsed(column, are_cells=True) if _are_texts(column) else None
    return column if read is None else read


def _spread(there: list[bool], numbers: NDArray[Any]) -> NDArray[np.float64]:
    """Numbers at the places of the values that are there, NaN at the others."""
    found = np.full(len(there), np.nan)
    found[there] = numbers
    return found


OWN_LEVELS = 0.5
"""Texts with more distinct values than this share of the rows are no levels: nearly each is one by itself."""

_FEWEST_TEXTS = 100


def _is_own_level(column: Column) -> bool:
    """Whether nearly every value of a column of texts is its own level, as of ids and free text."""
    if not _are_texts(column):
        return False
    distinct = len(column.counted()[0]) if isinstance(column, TextColumn) else len({*map(str, np.asarray(column).tolist())})
    return distinct > max(_FEWEST_TEXTS, OWN_LEVELS * len(column))


HOUR = "hour"
"""The feature of moments that stays the same from day to day: the hour of the day, which shows another time zone."""


def _hours(column: Column, are_cells: bool) -> NDArray[np.float64]:
    moments = _parsed(column, are_cells) if _are_texts(column) else np.asarray(column)
    if moments is None or moments.dtype.kind != "M":
        return np.full(len(column), np.nan)
    return _hour_of(moments)


def _hour_of(moments: NDArray[Any]) -> NDArray[np.float64]:
    seconds = (moments - moments.astype("M8[D]")).astype("m8[s]").astype(np.float64)
    return np.where(np.isnat(moments), np.nan, np.floor(seconds / 3600))


def _has_hours(moments: NDArray[Any]) -> bool:
    hours = _hour_of(moments)
    return bool(np.unique(hours[np.isfinite(hours)]).size > 1)
