"""Parquet and Arrow files, read a few thousand rows at a time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import numpy as np

from harness.data import Columns, Reader, Record
from harness.errors import DataError, optional_package

_ROWS_AT_ONCE = 1024


class _ArrowRows(Reader):
    package = "pyarrow"
    expansion = 4  # it may be compressed
    format_name: ClassVar[str]

    def __iter__(self) -> Iterator[Record]:
        """The rows; values are Python's own."""
        number = 0
        for batch in self._guarded(_ROWS_AT_ONCE):
            for row in batch.to_pylist():
                number += 1
                yield Record(f"{self.name}, row {number}", row)

    def columns(self, rows: int) -> Iterator[Columns]:
        """The columns as arrays."""
        return (arrow_columns(batch) for batch in self._guarded(rows))

    @abstractmethod
    def _batches(self, rows: int) -> AbstractContextManager[Iterator[Any]]:
        """Opens the file, as record batches."""

    def _guarded(self, rows: int) -> Iterator[Any]:
        """Record batches of at most so many rows; what is wrong with the file is said in one line.

        Raises:
            DataError: The file is of another kind, or is damaged.
            MissingPackageError: ``pyarrow`` is not installed.
        """
        arrow = optional_package("pyarrow", f"{self.name}: {self.format_name}")
        number = 0
        try:
            with self._batches(rows) as batches:
                for batch in batches:
                    for start in range(0, batch.num_rows, rows):
                        yield batch.slice(start, rows)
                    number += batch.num_rows
        except (arrow.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: cannot be read after row {number}: {str(error).splitlines()[0]}") from None


class ParquetFile(_ArrowRows):
    """The rows of a Parquet file."""

    kind = format_name = "Parquet"
    suffixes = (".parquet",)
    layout = "a column for each field"

    def count(self) -> int:
        """How many there are, from the file's footer."""
        with self._open() as file:
            return int(file.metadata.num_rows)

    @contextmanager
    def _batches(self, rows: int) -> Iterator[Iterator[Any]]:
        with self._open() as file:
            yield file.iter_batches(batch_size=rows)

    def _open(self) -> Any:
        return optional_package("pyarrow.parquet", f"{self.name}: Parquet").ParquetFile(self.path, memory_map=True)


class ArrowFile(_ArrowRows):
    """The rows of an Arrow file or stream, also called Feather."""

    kind = "Arrow (Feather)"
    format_name = "Arrow"
    suffixes = (".arrow", ".feather", ".ipc")
    layout = "a column for each field; a file or a stream"

    @contextmanager
    def _batches(self, rows: int) -> Iterator[Iterator[Any]]:
        arrow = optional_package("pyarrow", f"{self.name}: Arrow")
        with arrow.memory_map(str(self.path)) as source:
            try:
                file = arrow.ipc.open_file(source)
            except arrow.ArrowInvalid:
                source.seek(0)
                yield iter(arrow.ipc.open_stream(source))
                return
            yield (file.get_batch(number) for number in range(file.num_record_batches))


def arrow_columns(batch: Any) -> Columns:
    """The columns of a record batch as arrays; nested ones are left out, but for lists of one length, which are vectors."""
    columns = {name: _array(column) for name, column in zip(batch.schema.names, batch.columns, strict=True)}
    return {name: column for name, column in columns.items() if column is not None}


def _array(column: Any) -> np.ndarray | None:
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
    return np.asarray(column.to_numpy(zero_copy_only=False))
