"""A dataset as the config names it: rows in memory, packed into a few tensors, or a stream of a file that is too large for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.data import Example, Record, SizedSource, Source, count_rows
from harness.data.columns import Classes
from harness.data.encoding import Encoder
from harness.data.python_rows import PythonRows
from harness.data.tokens import Tokenizer
from harness.errors import DataError, did_you_mean
from harness.tasks import TaskSpec
from harness.wording import listed


@dataclass(frozen=True)
class Origin:
    """Where a dataset's examples come from, and how they were read.

    Attributes:
        name: The file, or the built-in set.
        part: What is read of it: ``train``, ``train[0%:80%]``; for a file that tells no splits apart ``[0%:100%]``.
        encoder: How rows become examples.
        path: The file or folder, or that of the code that gives the rows; ``None`` for a built-in set.
        is_python: Whether code of the user's gives the rows.
    """

    name: str
    part: str
    encoder: Encoder
    path: Path | None = None
    is_python: bool = False

    @property
    def task(self) -> TaskSpec:
        """What the examples are for."""
        return self.encoder.task

    @property
    def tokenizer(self) -> Tokenizer | None:
        """What read the texts; ``None`` where there are none."""
        return self.encoder.tokenizer

    @property
    def classes(self) -> Classes | None:
        """The classes of the labels; ``None`` where the task has none."""
        return self.encoder.classes

    def is_same_as(self, other: Origin) -> bool:
        """Whether both are the same rows, as when a model is judged on what it was trained on."""
        return (self.name, self.part, self.path) == (other.name, other.part, other.path)

    def describe(self) -> dict[str, Any]:
        """What should be remembered with a run, ready for JSON."""
        tokenizer = self.tokenizer
        return {
            "name": self.name,
            "path": self.path and str(self.path),
            "part": self.part,
            "class_names": list(self.classes.names) if self.classes else [],
            "feature_columns": list(self.encoder.columns),
            "tokenizer": tokenizer and {"kind": tokenizer.kind, "fingerprint": tokenizer.fingerprint},
        }


Reread = Callable[[str], Iterable[Record]]
"""Reads the rows of the examples once more, those of pieces with the column whose name it is told."""


@dataclass(frozen=True)
class Rows:
    """Examples that can be had by number.

    Attributes:
        origin: Where they come from.
        examples: The examples.
        reread: Reads what they were made from once more; ``None`` where that cannot be done.
    """

    origin: Origin
    examples: Sequence[Example]
    reread: Reread | None = None

    def __len__(self) -> int:
        """How many there are."""
        return len(self.examples)

    def column(self, name: str) -> list[object]:
        """A column of the data that need not be an input, a value an example.

        Raises:
            DataError: There is no such column.
        """
        if self.reread is None:
            raise DataError(f"{self.origin.name}: its rows have no columns, so there is no {name!r}")
        return _column(self.reread(name), name, self.origin)

    def chosen(self, numbers: Sequence[int]) -> Rows:
        """Some of the examples, by their numbers."""
        reread = self.reread
        again = None if reread is None else partial(_numbered, reread, tuple(numbers))
        return Rows(self.origin, ChosenExamples(self, numbers), again)

    def __getitem__(self, index: int) -> Example:
        """One of them, counted from 0."""
        return self.examples[index]

    def drawn(self, index: int, seed: str) -> Example:
        """One of them, counted from 0; what the user's own code draws for it, as augmentation does, is drawn under a seed."""
        examples = self.examples
        return examples.drawn(index, seed) if isinstance(examples, LazyExamples) else examples[index]


@dataclass(frozen=True)
class Stream:
    """Examples of a file that is read from its beginning, and never held.

    Attributes:
        origin: Where they come from.
        source: The rows.
        limit: How many are read; all by default.
    """

    origin: Origin
    source: Source
    limit: int | None = None

    def __len__(self) -> int:
        """How many there are; the first time, this reads through the file."""
        return self._count

    @cached_property
    def _count(self) -> int:
        return count_rows(self.source) if self.limit is None else sum(1 for _ in islice(self.source, self.limit))

    def records(self) -> Iterator[Record]:
        """The rows, not yet encoded.

        Raises:
            DataError: There are none.
        """
        empty = True
        for record in islice(self.source, self.limit):
            empty = False
            yield record
        if empty:
            raise no_rows(self.origin.name, self.origin.task)

    def encode(self, record: Record) -> Example:
        """The example of a row."""
        return self.origin.encoder(record)

    def column(self, name: str) -> list[object]:
        """A column of the data that need not be an input, a value an example.

        Raises:
            DataError: There is no such column.
        """
        return _column(self.records(), name, self.origin)

    def chosen(self, numbers: Sequence[int]) -> Stream:
        """Some of the examples, by their numbers, ascending."""
        return Stream(self.origin, ChosenRows(self.source, frozenset(numbers)), len(numbers))

    def __iter__(self) -> Iterator[Example]:
        """The examples in the file's order."""
        return map(self.encode, self.records())


Dataset = Rows | Stream


def _column(records: Iterable[Record], name: str, origin: Origin) -> list[object]:
    found = []
    for record in records:
        if name not in record.fields:
            raise DataError(
                f"{origin.name}: no column {name!r}.{did_you_mean(name, record.fields)} It has {listed(list(record.fields))}"
            )
        found.append(record.fields[name])
    return found


def _numbered(reread: Reread, numbers: tuple[int, ...], name: str) -> Iterator[Record]:
    records = list(reread(name))
    return (records[number] for number in numbers)


@dataclass(frozen=True)
class ChosenRows:
    """Some rows of a source, by their numbers."""

    source: Source
    numbers: frozenset[int]

    @property
    def name(self) -> str:
        """The file."""
        return self.source.name

    def __iter__(self) -> Iterator[Record]:
        """Those rows."""
        return (record for number, record in enumerate(self.source) if number in self.numbers)


@dataclass(frozen=True)
class ChosenExamples(Sequence[Example]):
    """Some examples of others, by their numbers."""

    rows: Rows
    numbers: Sequence[int]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.numbers)

    def __getitem__(self, index: Any) -> Any:
        """One of them, or several for a slice."""
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        return self.rows[self.numbers[index]]


@dataclass(frozen=True)
class LazyExamples(Sequence[Example]):
    """Examples that are encoded when they are asked for: images to decode, or to draw.

    Attributes:
        source: The rows.
        encoder: Makes the examples.
        picked: The numbers of the rows that are meant.
    """

    source: SizedSource
    encoder: Encoder
    picked: Sequence[int]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.picked)

    def __getitem__(self, index: Any) -> Any:
        """One of them, or several for a slice."""
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        return self.encoder(self.source[self.picked[index]])

    def drawn(self, index: int, seed: str) -> Example:
        """One of them, where what is random about it is drawn under a seed."""
        number = self.picked[index]
        return self.encoder(self.source.drawn(number, seed) if isinstance(self.source, PythonRows) else self.source[number])


def no_rows(name: str, task: TaskSpec) -> DataError:
    """The error of a dataset without a row that can be learnt from."""
    if task.facts.rows == "text":
        return DataError(
            f"{name}: no row has enough tokens to learn from, within `max_seq_len` {task.max_seq_len}: "
            "a causal LM needs two tokens, a masked LM one"
        )
    return DataError(f"{name}: no rows")


_BLOCK = 4096


class PackedExamples(Sequence[Example]):
    """Examples that were encoded once and are held in memory; whole numbers as int32, to which ids and classes fit.

    Args:
        examples: All of them; each has the same fields.
        name: The file or dataset in messages.

    Raises:
        DataError: Only some of them have labels.
    """

    def __init__(self, examples: Iterable[Example], name: str) -> None:
        blocks = [_Block(block, name) for block in _blocks(iter(examples))]
        self._fields = {field: _Field(block.fields[field] for block in blocks) for field in (blocks[0].fields if blocks else ())}
        self._count = sum(block.count for block in blocks)
        if any(block.fields.keys() != self._fields.keys() for block in blocks):
            raise _uneven(name)

    def __len__(self) -> int:
        """How many there are."""
        return self._count

    def __getitem__(self, index: Any) -> Any:
        """One of them, or several for a slice."""
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        return {name: field.row(range(len(self))[index]) for name, field in self._fields.items()}


class _Block:
    """Some examples: for each field its values end to end, and the shape of each."""

    def __init__(self, examples: Sequence[Example], name: str) -> None:
        if any(example.keys() != examples[0].keys() for example in examples):
            raise _uneven(name)
        self.count = len(examples)
        self.fields = {field: _flat([example[field] for example in examples]) for field in examples[0]}


class _Field:
    """A field of every example; rows of one dimension may differ in length."""

    def __init__(self, blocks: Iterable[tuple[Tensor, Tensor, torch.Size]]) -> None:
        values, lengths, shapes = zip(*blocks, strict=True)
        self._values = torch.cat(values)
        self._ends = torch.cat(lengths).cumsum(0)
        self._shape = shapes[0]

    def row(self, index: int) -> Tensor:
        end = int(self._ends[index])
        start = int(self._ends[index - 1]) if index else 0
        row = self._values[start:end]
        row = row.clone() if row.is_floating_point() else row.long()
        return row if len(self._shape) == 1 else row.reshape(self._shape)


def _flat(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor, torch.Size]:
    values = torch.cat([row.reshape(-1) for row in rows])
    lengths = torch.tensor([row.numel() for row in rows])
    return values if values.is_floating_point() else values.int(), lengths, rows[0].shape


def _blocks(examples: Iterator[Example]) -> Iterator[list[Example]]:
    while block := list(islice(examples, _BLOCK)):
        yield block


def _uneven(name: str) -> DataError:
    return DataError(f"{name}: some rows have `labels` and others have none")
