"""Many small examples in a few large tensors: a fraction of the memory that as many small tensors take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from harness.data.record import Example
from harness.errors import DataError

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
