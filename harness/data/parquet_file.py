"""Parquet, read a few thousand rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.data.packages import optional_package
from harness.data.record import Record
from harness.errors import DataError

_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class ParquetTable:
    """The rows of a Parquet file; values are Python's own."""

    path: Path

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    def __iter__(self) -> Iterator[Record]:
        """The rows.

        Raises:
            DataError: The file is no Parquet, or is damaged.
            MissingPackageError: ``pyarrow`` is not installed.
        """
        arrow = optional_package("pyarrow", f"{self.name}: Parquet")
        number = 0
        try:
            with self._open() as file:
                for block in file.iter_batches(batch_size=_ROWS_AT_ONCE):
                    for row in block.to_pylist():
                        number += 1
                        yield Record(f"{self.name}, row {number}", row)
        except (arrow.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: cannot be read after row {number}: {str(error).splitlines()[0]}") from None

    def count(self) -> int:
        """How many there are, from the file's footer."""
        with self._open() as file:
            return int(file.metadata.num_rows)

    def _open(self) -> Any:
        return optional_package("pyarrow.parquet", f"{self.name}: Parquet").ParquetFile(self.path, memory_map=True)
