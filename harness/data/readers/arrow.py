"""Parquet and Arrow files, read a few thousand rows at a time."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from harness.data import NO_VALUE, Columns, Reader, Record
from harness.errors import DataError, optional_package

_ROWS_AT_ONCE = 1024

CELLS_AT_ONCE = 1 << 21
"""Of a table that is read by columns: the more columns, the fewer rows at once, so that memory stays the same."""


_BUFFER = 1 << 16
"""Bytes that are read of a column at once."""


class TextColumn:
    """Texts as Arrow holds them, and an array of objects where one is asked for.

    Args:
        texts: Strings of Arrow.
        are_cells: Whether they are cells of a file of texts, where the spaces around a value do not count, and a blank is no value.
    """

    def __init__(self, texts: Any, are_cells: bool = False) -> None:
        self.texts = texts
        self._are_cells = are_cells

    def __len__(self) -> int:
        return len(self.texts)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.trimmed().to_numpy(zero_copy_only=False), dtype)

    def chosen(self, rows: np.ndarray) -> TextColumn:
        """The texts of some rows, bool ``[N]``."""
        return TextColumn(self.texts.filter(optional_package("pyarrow", "Arrow").array(rows)), self._are_cells)

    def trimmed(self) -> Any:
        """The texts, without spaces around the cells of a file of texts, and ``null`` for blank ones."""
        if not self._are_cells:
            return self.texts
        compute = optional_package("pyarrow.compute", "Arrow")
        bare = compute.utf8_trim_whitespace(self.texts)
        return compute.if_else(compute.equal(bare, ""), None, bare)

    def without_words(self) -> Any:
        """The texts trimmed, and ``null`` also for words that stand for a missing number, such as ``NA``."""
        arrow, compute = optional_package("pyarrow", "Arrow"), optional_package("pyarrow.compute", "Arrow")
        bare = self.trimmed()
        words = arrow.array(sorted(NO_VALUE), bare.type)
        return compute.if_else(compute.is_in(compute.utf8_lower(bare), value_set=words), None, bare)

    def counted(self) -> tuple[dict[str, int], int]:
        """How often each text occurs, and how many are missing."""
        compute = optional_package("pyarrow.compute", "Arrow")
        found = compute.value_counts(self.texts.drop_null())
        counts: Counter[str] = Counter()
        for text, count in zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True):
            counts[text.strip() if self._are_cells else text] += count
        blank = counts.pop("", 0) if self._are_cells else 0
        return counts, self.texts.null_count + blank

    def parsed(self) -> np.ndarray | None:
        """The moments that all texts are, or of the cells of a file of texts the numbers; ``None`` where some are neither."""
        arrow = optional_package("pyarrow", "Arrow")
        moments = (arrow.timestamp("us"), arrow.timestamp("us", "UTC"))
        kinds = (arrow.int64(), arrow.float64(), *moments) if self._are_cells else moments
        for texts_of in (_as_they_are, TextColumn.trimmed, TextColumn.without_words) if self._are_cells else (_as_they_are,):
            head = texts_of(self._head)
            for kind in kinds:
                with suppress(arrow.ArrowInvalid):
                    head.cast(kind)  # most texts that are none are known by the first ones
                    return np.asarray(texts_of(self).cast(kind).to_numpy(zero_copy_only=False))
        return None

    @property
    def _head(self) -> TextColumn:
        return TextColumn(self.texts.slice(0, _HEAD), self._are_cells)


_HEAD = 16


def _as_they_are(column: TextColumn) -> Any:
    return column.texts


class _ArrowRows(Reader):
    package = "pyarrow"
    expansion = 4  # it may be compressed
    format_name: ClassVar[str]

    def __iter__(self) -> Iterator[Record]:
        """The rows; values are Python's own."""
        number = 0
        for batch in self._guarded(_ROWS_AT_ONCE):
            for row in self._values(batch, number):
                number += 1
                yield Record(f"{self.name}, row {number}", row)

    def _values(self, batch: Any, number: int) -> list[dict[str, Any]]:
        """The rows of a batch, whose offsets are looked at first: those of a damaged file may point anywhere in memory."""
        try:
            batch.validate(full=True)
            rows: list[dict[str, Any]] = batch.to_pylist()
        except (ValueError, TypeError, OverflowError, SystemError) as error:
            raise self._damaged(number, error) from None
        return rows

    def _damaged(self, number: int, error: BaseException) -> DataError:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        return DataError(f"{self.path}: cannot be read after row {number}: {reason}")

    def columns(self, rows: int) -> Iterator[Columns]:
        """The columns as arrays."""
        return (arrow_columns(batch) for batch in self._guarded(rows))

    @abstractmethod
    def _batches(self, rows: int, names: Sequence[str] | None) -> AbstractContextManager[Iterator[Any]]:
        """Opens the file, as record batches; of some columns only where that saves reading."""

    def _guarded(self, rows: int, names: Sequence[str] | None = None) -> Iterator[Any]:
        """Record batches of at most so many rows; what is wrong with the file is said in one line.

        Raises:
            DataError: The file is of another kind, or is damaged.
            MissingPackageError: ``pyarrow`` is not installed.
        """
        arrow = optional_package("pyarrow", f"{self.name}: {self.format_name}")
        number = 0
        try:
            with self._batches(rows, names) as batches:
                for batch in batches:
                    for start in range(0, batch.num_rows, rows):
                        yield batch.slice(start, rows)
                    number += batch.num_rows
        except (arrow.ArrowException, OSError) as error:
            raise self._damaged(number, error) from None


class ParquetFile(_ArrowRows):
    """The rows of a Parquet file."""

    def columns_named(self, names: Sequence[str], rows: int) -> Iterator[Columns]:
        """Some columns of the file, some rows at a time; the others are not read, and take no memory."""
        return (arrow_columns(batch) for batch in self._guarded(rows, tuple(names)))

    @property
    def names(self) -> list[str]:
        """The names of its columns, from the file's footer."""
        with self._open() as file:
            return list(file.schema_arrow.names)

    kind = format_name = "Parquet"
    suffixes = (".parquet",)
    layout = "a column for each field"

    def count(self) -> int:
        """How many there are, from the file's footer."""
        with self._open() as file:
            return int(file.metadata.num_rows)

    @contextmanager
    def _batches(self, rows: int, names: Sequence[str] | None) -> Iterator[Iterator[Any]]:
        with self._open() as file:
            columns = len(names) if names else max(1, file.metadata.num_columns)
            size = min(rows, max(_ROWS_AT_ONCE, CELLS_AT_ONCE // columns))
            yield file.iter_batches(batch_size=size, columns=names and list(names), use_threads=False)

    def _open(self) -> Any:
        parquet = optional_package("pyarrow.parquet", f"{self.name}: Parquet")
        return parquet.ParquetFile(self.path, pre_buffer=False, buffer_size=_BUFFER)  # a mapped file would count as memory


class ArrowFile(_ArrowRows):
    """The rows of an Arrow file or stream, also called Feather."""

    kind = "Arrow (Feather)"
    format_name = "Arrow"
    suffixes = (".arrow", ".feather", ".ipc")
    layout = "a column for each field; a file or a stream"

    @contextmanager
    def _batches(self, rows: int, names: Sequence[str] | None) -> Iterator[Iterator[Any]]:
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


def _array(column: Any) -> np.ndarray | TextColumn | None:
    arrow = optional_package("pyarrow", "Arrow")
    kind, types = column.type, arrow.types
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if is_list and (types.is_floating(kind.value_type) or types.is_integer(kind.value_type)):
        return _vectors(column)
    if types.is_nested(kind):
        return None
    if types.is_decimal(kind):
        column = column.cast(arrow.float64())
    if types.is_dictionary(kind):
        column = column.dictionary_decode()
    if types.is_string(column.type) or types.is_large_string(column.type):
        return TextColumn(column)
    if types.is_time(kind):
        column = column.cast(arrow.int32() if kind.bit_width == 32 else arrow.int64())
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _vectors(column: Any) -> np.ndarray | None:
    """Lists of numbers as vectors, NaN where a row has none; ``None`` where they are of several lengths."""
    there = np.asarray(column.is_valid())
    known = column.drop_null()
    lengths = np.diff(np.asarray(known.offsets)) if hasattr(known, "offsets") else [column.type.list_size]
    if not there.any() or len(set(np.asarray(lengths).tolist())) != 1:
        return None
    vectors = np.full((len(column), int(lengths[0])), np.nan)
    vectors[there] = np.asarray(known.flatten(), np.float64).reshape(-1, int(lengths[0]))
    return vectors


_BLOCK = 16 << 20
"""Bytes of a CSV file that are read at once."""


class CsvParts:
    """The columns of a CSV file as texts, some rows at a time.

    Args:
        path: The file.
        header: The names of its columns.
        separator: What is between its cells.

    Attributes:
        rows: How many were read.
        is_whole: Whether they are all: Arrow ends at the first row that it cannot read.
    """

    def __init__(self, path: Path, header: Sequence[str], separator: str) -> None:
        self._path = path
        self._header = list(header)
        self._separator = separator
        self.rows = 0
        self.is_whole = False

    def __iter__(self) -> Iterator[Columns]:
        arrow, csv = optional_package("pyarrow", "CSV"), optional_package("pyarrow.csv", "CSV")
        cells = csv.ConvertOptions(
            column_types=dict.fromkeys(self._header, arrow.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
        )
        read = csv.ReadOptions(column_names=self._header, skip_rows=1, block_size=_BLOCK, use_threads=False)
        parse = csv.ParseOptions(delimiter=self._separator, newlines_in_values=True)
        try:
            with csv.open_csv(self._path, read, parse, cells) as batches:
                for batch in batches:
                    yield {
                        name: TextColumn(column, are_cells=True) for name, column in zip(self._header, batch.columns, strict=True)
                    }
                    self.rows += batch.num_rows
            self.is_whole = True
        except (arrow.ArrowException, OSError):
            return
