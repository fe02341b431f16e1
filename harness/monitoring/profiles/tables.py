"""Tables, a part of their rows at a time: columns in memory, Arrow data, files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import did_you_mean
from harness.monitoring.errors import ProfileError
from harness.monitoring.features.kinds import Column, block_of, kinds_of
from harness.monitoring.features.values import Block
from harness.tasks.spec import data_identity

if TYPE_CHECKING:
    from harness.data.record import Reader


Columns = Mapping[str, Column]

ROWS_AT_ONCE = 1 << 16

META = {**data_identity(None), "tokenizer": None}
"""What windows of tables share."""


def table_blocks(data: Any, kinds: Mapping[str, str] | None, categorical: Iterable[str] = ()) -> Iterator[Block]:
    """The rows of a table.

    Args:
        data: What ``tables_of`` takes.
        kinds: What each column is; by default as the first rows have it.
        categorical: Columns that are levels, whatever their first rows look like.

    Raises:
        ProfileError: It is no table, or there is no such column.
    """
    tables = tables_of(data)
    first = next(tables, None)
    if first is None:
        return
    if kinds is None:
        texts = isinstance(data, (str, Path)) and _reader(Path(data)).are_texts
        kinds = _chosen({name: _parsed(column) for name, column in first.items()} if texts else first, list(categorical))
    for table in chain([first], tables):
        yield block_of(table, kinds)


def tables_of(data: Any) -> Iterator[Columns]:
    """A table by parts of a bounded number of rows.

    Args:
        data: Columns by name, a data frame, Arrow data, the path of a file, or an iterable of any of these.

    Raises:
        ProfileError: It is none of these.
        DataError: The file is missing or damaged.
    """
    if isinstance(data, (str, Path)):
        yield from _reader(Path(data)).columns(ROWS_AT_ONCE)
    elif is_arrow(data):
        yield from arrow_batches(data)
    elif isinstance(data, Mapping) or hasattr(data, "columns"):
        yield from _parts(data if isinstance(data, Mapping) else {str(name): data[name] for name in data.columns})
    elif isinstance(data, Iterable) and not isinstance(data, np.ndarray):
        for part in data:
            yield from tables_of(part)
    else:
        raise ProfileError(
            f"a {type(data).__name__} cannot be profiled: give columns by name, a data frame, Arrow data, a dataset or a file"
        )


def _parts(columns: Columns) -> Iterator[Columns]:
    arrays = {name: np.asarray(column) for name, column in columns.items()}
    flat = next((name for name, array in arrays.items() if not array.ndim), None)
    if flat is not None:
        raise ProfileError(f"column {flat!r} is a single value, not an array of one a row")
    rows = max((len(array) for array in arrays.values()), default=0)
    for start in range(0, rows, ROWS_AT_ONCE) or [0]:
        yield {name: array[start : start + ROWS_AT_ONCE] for name, array in arrays.items()}


def _chosen(first: Columns, categorical: list[str]) -> dict[str, str]:
    unknown = next((name for name in categorical if name not in first), None)
    if unknown is not None:
        raise ProfileError(f"`categorical`: no column {unknown!r}.{did_you_mean(unknown, first)}")
    return {**kinds_of(first), **dict.fromkeys(categorical, "categorical")}


def _reader(path: Path) -> Reader:
    from harness.data.readers import table_of

    return table_of(path)


def _parsed(column: Column) -> Column:
    """Texts as numbers, where all that are not missing are."""
    texts = [text for text in column if text is not None]
    for kind in (np.int64, np.float64):
        with suppress(ValueError, OverflowError):
            return np.array(texts, kind)
    return column


ROWS_AT_ONCE = 1 << 16


def is_arrow(data: Any) -> bool:
    """Whether something is a table, a batch, a reader or a dataset of Arrow."""
    return type(data).__module__.partition(".")[0] == "pyarrow"


def arrow_batches(data: Any) -> Iterator[dict[str, Column]]:
    """The columns of Arrow data, some rows at a time.

    Args:
        data: A ``RecordBatch``, a ``Table``, a ``RecordBatchReader`` (which can be read once) or a ``pyarrow.dataset.Dataset``.
    """
    from harness.data.readers.arrow import arrow_columns

    for batch in _batches(data):
        for start in range(0, batch.num_rows, ROWS_AT_ONCE):
            yield arrow_columns(batch.slice(start, ROWS_AT_ONCE))


def _batches(data: Any) -> Iterable[Any]:
    if hasattr(data, "to_batches"):
        return data.to_batches()
    return data if hasattr(data, "read_next_batch") else [data]
