"""A row as its source gives it, and an example as a model takes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from harness.errors import DataError

Example = dict[str, Tensor]
"""One row without padding: ``input_ids`` int64 ``[S]``, ``decoder_input_ids`` int64 ``[T]``, ``pixel_values`` float32 ``[C, H, W]``,
``features`` float32 ``[F]``, and ``labels``."""


@dataclass(frozen=True)
class Record:
    """A row before it is encoded.

    Attributes:
        where: What an error message names: the file and the line or row, counted from 1.
        fields: The values by column name.
    """

    where: str
    fields: Mapping[str, Any]

    def refuse(self, message: str) -> DataError:
        """The error that says what is wrong with this row."""
        return DataError(f"{self.where}: {message}")


class Source(Protocol):
    """Rows that can be read again from the first; a file is not held in memory."""

    @property
    def name(self) -> str:
        """The file or dataset in messages."""
        ...

    def __iter__(self) -> Iterator[Record]:
        """The rows in order."""
        ...


@runtime_checkable
class Countable(Protocol):
    """Rows that can be counted faster than by reading them one by one."""

    def count(self) -> int:
        """How many there are."""
        ...


def count_rows(source: Source) -> int:
    """How many rows a source has."""
    return source.count() if isinstance(source, Countable) else sum(1 for _ in source)


class SizedSource(Source, Protocol):
    """Rows that can be read by their number, counted from 0."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __getitem__(self, index: int) -> Record:
        """One of them."""
        ...


@dataclass(frozen=True)
class RecordList:
    """Rows that are held in memory."""

    name: str
    records: list[Record]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        """One of them, counted from 0."""
        return self.records[index]

    def __iter__(self) -> Iterator[Record]:
        """All of them."""
        return iter(self.records)
