"""A row as its source gives it, an example as a model takes it, and what a reader of data files is."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import numpy as np

from harness.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from harness.tasks import TaskSpec


LABELS = ("labels", "label")
"""Columns that may hold what a model should say."""

TARGETS = (*LABELS, "target")
"""The same for tables."""

NO_VALUE = frozenset({"na", "n/a", "#n/a", "#na", "<na>", "nan", "nat", "null", "none", "nil", "\\n", "?", "-", "."})
"""What files write in a column of numbers or dates where there is none, in lower case: R, pandas, spreadsheets, databases, UCI."""


def says_no_value(text: str) -> bool:
    """Whether a text among numbers or dates stands for a missing one: a blank, ``NA``, ``null``, ``?``."""
    bare = text.strip().lower()
    return not bare or bare in NO_VALUE


Example: TypeAlias = "dict[str, Tensor]"
"""One row without padding: ``input_ids`` int64 ``[S]``, ``decoder_input_ids`` int64 ``[T]``, ``pixel_values`` float32 ``[C, H, W]``,
``features`` float32 ``[F]``, and ``labels``."""

Columns = dict[str, Any]
"""Some rows of a table: an array ``[N]`` for each column, or ``[N, D]`` for vectors."""


@dataclass(frozen=True)
class Record:
    """A row before it is encoded.

    Attributes:
        where: What an error message names: the file and the line or row, counted from 1.
        fields: The values by column name.
        line_of: Gives the line of the user's code, ``data.py, line 12``, that made a value; ``None`` of rows that no code makes.
    """

    where: str
    fields: Mapping[str, Any]
    line_of: Callable[[str], str] | None = field(default=None, compare=False, repr=False)

    def refuse(self, message: str) -> DataError:
        """The error that says what is wrong with this row; with the line that made the value it names first."""
        named = re.search("`([^`]+)`", message)
        line = self.line_of(named[1] if named is not None and named[1] in self.fields else "") if self.line_of is not None else ""
        return DataError(f"{self.where}: {message}{f' ({line})' if line else ''}")


def flattened(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a row by dotted names: those of nested dicts under the names of both."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


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


@dataclass(frozen=True)
class Reader(ABC):
    """A kind of data file: its suffixes, what it is called, and its rows.

    A subclass in ``harness/data/readers`` and its line in ``READERS`` are all that a kind needs: training, evaluation, monitoring, the messages
    and the documentation take it from there.

    Attributes:
        path: The file that is read.
        kind: What such a file is called.
        suffixes: How its name ends, in lower case.
        layout: What is in it, in a few words.
        package: The distribution that reading it needs, where that is not always installed.
        are_texts: Whether all values are texts, so that numbers among them have to be recognised.
        is_continuous: Whether a text runs on from one row to the next, as in a book.
        expansion: About how many times its size the file takes in memory.
        is_folder: Whether it is a folder of files with those suffixes.
    """

    path: Path

    kind: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    layout: ClassVar[str]
    package: ClassVar[str] = ""
    are_texts: ClassVar[bool] = False
    is_continuous: ClassVar[bool] = False
    expansion: ClassVar[int] = 1
    is_folder: ClassVar[bool] = False

    @classmethod
    def open(cls, path: Path, task: TaskSpec, *, lenient: bool = False) -> Reader:
        """A reader of a file for a task.

        Args:
            path: The file.
            task: What the rows are for.
            lenient: Whether they are production data, which may lack labels and hold numbers that are not finite.

        Raises:
            DataError: Such a file cannot hold rows of the task.
        """
        return cls(path)

    @property
    def name(self) -> str:
        """The file's name, for messages."""
        return self.path.name

    @abstractmethod
    def __iter__(self) -> Iterator[Record]:
        """The rows from the first one.

        Raises:
            DataError: The file is damaged; the message names the line or row.
        """

    def count(self) -> int:
        """How many rows there are."""
        return sum(1 for _ in self)

    def columns(self, rows: int) -> Iterator[Columns]:
        """The columns of the file as a table, some rows at a time; nested values are left out, but for lists of one length.

        Returns:
            Arrays ``[N]`` by column, or ``[N, D]`` for lists of D numbers.

        Raises:
            DataError: The file is damaged, or is no table.
        """
        yield from self._tables(iter(self), rows)

    def _tables(self, records: Iterator[Record], rows: int) -> Iterator[Columns]:
        while part := list(islice(records, rows)):
            names = dict.fromkeys(name for record in part for name in record.fields)
            arrays = {name: column_array([self._cell(record.fields.get(name)) for record in part]) for name in names}
            yield {name: array for name, array in arrays.items() if array is not None}

    def _cell(self, value: Any) -> Any:
        """The value of a cell of a table; a blank text is none where all values are texts."""
        return (value.strip() or None) if self.are_texts and isinstance(value, str) else value


class IndexedReader(Reader):
    """A kind of file whose rows can be had by number, so that they are decoded only when they are asked for."""

    @abstractmethod
    def __len__(self) -> int:
        """How many rows there are."""

    @abstractmethod
    def __getitem__(self, index: int) -> Record:
        """A row, counted from 0."""

    def __iter__(self) -> Iterator[Record]:
        """All rows."""
        return (self[index] for index in range(len(self)))

    def count(self) -> int:
        """How many rows there are."""
        return len(self)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, where the file tells them before any row is read; empty where the labels are ids."""
        return ()

    def check(self, task: TaskSpec, *, lenient: bool = False) -> None:
        """Checks what can be checked at once, rather than when a row is read.

        Raises:
            DataError: The rows do not fit the task.
        """


def column_array(values: list[Any]) -> np.ndarray | None:
    """The values of a column as an array ``[N]``, or ``[N, D]`` for lists of numbers; ``None`` for other nested values."""
    if any(isinstance(value, (list, tuple, np.ndarray)) for value in values):
        try:
            vectors = np.asarray(values, np.float64)
        except (TypeError, ValueError):
            return None
        return vectors if vectors.ndim == 2 else None
    if any(isinstance(value, dict) for value in values):
        return None
    kinds = {type(value) for value in values}
    if kinds <= {int, float} and kinds:
        with suppress(OverflowError):
            return np.array(values, np.int64 if kinds == {int} else np.float64)
    return np.array(values, object)
