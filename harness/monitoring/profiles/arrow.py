"""Columns of Arrow data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harness.data.packages import optional_package
from harness.errors import DataError
from harness.monitoring.profiles.columns import Column

ROWS_AT_ONCE = 1 << 16


def is_arrow(data: Any) -> bool:
    """Whether something is a table, a batch, a reader or a dataset of Arrow."""
    return type(data).__module__.partition(".")[0] == "pyarrow"


def arrow_batches(data: Any) -> Iterator[dict[str, Column]]:
    """The columns of Arrow data, some rows at a time.

    Args:
        data: A ``RecordBatch``, a ``Table``, a ``RecordBatchReader`` (which can be read once) or a ``pyarrow.dataset.Dataset``.
    """
    for batch in _batches(data):
        for start in range(0, batch.num_rows, ROWS_AT_ONCE):
            yield columns_of(batch.slice(start, ROWS_AT_ONCE))


def parquet_batches(path: Path) -> Iterator[dict[str, Column]]:
    """The columns of a Parquet file, some rows at a time.

    Raises:
        DataError: The file is no Parquet, or is damaged.
        MissingPackageError: ``pyarrow`` is not installed.
    """
    parquet = optional_package("pyarrow.parquet", f"{path.name}: Parquet")
    yield from _guarded(path, lambda: parquet.ParquetFile(path, memory_map=True).iter_batches(batch_size=ROWS_AT_ONCE))


def ipc_batches(path: Path) -> Iterator[dict[str, Column]]:
    """The columns of an Arrow file or stream, also called Feather, a record batch at a time.

    Raises:
        DataError: The file is neither, or is damaged.
        MissingPackageError: ``pyarrow`` is not installed.
    """
    arrow = optional_package("pyarrow", f"{path.name}: Arrow")

    def batches() -> Iterator[Any]:
        with arrow.memory_map(str(path)) as source:
            try:
                file = arrow.ipc.open_file(source)
            except arrow.ArrowInvalid:
                source.seek(0)
                yield from arrow.ipc.open_stream(source)
                return
            for number in range(file.num_record_batches):
                yield file.get_batch(number)

    yield from _guarded(path, batches)


def columns_of(batch: Any) -> dict[str, Column]:
    """The columns of a record batch as arrays; nested ones are left out, but for lists of one length, which are vectors."""
    columns = {name: _array(column) for name, column in zip(batch.schema.names, batch.columns, strict=True)}
    return {name: column for name, column in columns.items() if column is not None}


def _batches(data: Any) -> Iterable[Any]:
    if hasattr(data, "to_batches"):
        return data.to_batches()
    return data if hasattr(data, "read_next_batch") else [data]


def _array(column: Any) -> Column | None:
    arrow = optional_package("pyarrow", "Arrow")
    kind, types = column.type, arrow.types
    if types.is_fixed_size_list(kind) and (types.is_floating(kind.value_type) or types.is_integer(kind.value_type)):
        # Not `flatten`, which leaves missing rows out.
        numbers = np.array(column.values.slice(column.offset * kind.list_size, len(column) * kind.list_size), np.float64)
        vectors = numbers.reshape(len(column), kind.list_size)
        vectors[np.asarray(column.is_null())] = np.nan
        return vectors
    if types.is_nested(kind):
        return None
    if types.is_decimal(kind):
        column = column.cast(arrow.float64())
    if types.is_dictionary(kind):
        column = column.dictionary_decode()
    if types.is_time(kind) or types.is_date(kind):
        column = column.cast(arrow.int32() if kind.bit_width == 32 else arrow.int64())
    return column.to_numpy(zero_copy_only=False)


def _guarded(path: Path, open_batches: Any) -> Iterator[dict[str, Column]]:
    arrow = optional_package("pyarrow", path.name)
    rows = 0
    try:
        for batch in open_batches():
            for part in arrow_batches(batch):
                yield part
                rows += len(next(iter(part.values()), ()))
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read after row {rows}: {str(error).splitlines()[0]}") from None
