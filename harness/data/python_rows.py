"""Rows from Python objects: datasets, dataloaders, and any iterable of batches or rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import cached_property, partial
from itertools import count, islice
from typing import Any
from zlib import crc32

import numpy as np
from torch import Tensor

from harness.data import Record, flattened
from harness.data.declared_rows import Field, input_fields, label_fields
from harness.data.row_lines import line_of_value
from harness.errors import DataError, UserError
from harness.runtime import seeded
from harness.tasks import TaskSpec
from harness.user_code import raised


class PythonRows:
    """Rows of whatever Python gives: a map-style or iterable dataset, a DataLoader, a Hugging Face dataset, batches or rows.

    A row is a dict by declared names, nested or with dotted names; a tuple of the inputs and then the labels, in the order of the signature;
    or an object with attributes of those names. A batch is the same with an axis of rows.

    Args:
        name: What a message calls it.
        task: What the rows are for.
        load: Makes it; called again for an iterator, which can be read only once.
        tells_splits: Whether it gives other rows for another split.

    Attributes:
        name: What a message calls it.
        tells_splits: Whether it gives other rows for another split.
    """

    def __init__(self, name: str, task: TaskSpec, load: Callable[[], Any], tells_splits: bool) -> None:
        self.name = name
        self.tells_splits = tells_splits
        self._layout = _Layout.of(task)
        self._load = load
        self._given = load()

    @cached_property
    def is_indexed(self) -> bool:
        """Whether its rows can be had by number."""
        given = self._given
        if not (hasattr(given, "__getitem__") and hasattr(given, "__len__")) or isinstance(given, Mapping) or not len(given):
            return False
        return not self._layout.is_batch(self._layout.fields(self._item(0, "0"), self._place(0)))

    def __len__(self) -> int:
        """How many rows there are, where they can be had by number."""
        return len(self._given)

    def __getitem__(self, index: int) -> Record:
        """A row, counted from 0."""
        return self.drawn(index, f"{index}")

    def drawn(self, index: int, seed: str) -> Record:
        """A row, counted from 0.

        Args:
            index: Which one.
            seed: Of what the user's code draws for it, as augmentation does.
        """
        fields = self._layout.fields(self._item(index, seed), self._place(index))
        return Record(self._place(index), fields, partial(self._line_of, partial(self._item, index, seed)))

    def __iter__(self) -> Iterator[Record]:
        """The rows in order; whatever is random about them is drawn under the same seeds each time.

        Raises:
            DataError: The user's code raised, or gave something that is no row.
        """
        if self.is_indexed:
            yield from (self[index] for index in range(len(self)))
            return
        row = count(1)
        for number, item in enumerate(self._items(), 1):
            place = f"{self.name}, item {number}"
            fields = self._layout.fields(item, place)
            line_of = partial(self._line_of, partial(self._again, number))
            if not self._layout.is_batch(fields):
                yield Record(f"{self.name}, row {next(row)}", fields, line_of)
                continue
            for within, each in enumerate(self._layout.rows(fields, place), 1):
                next(row)
                yield Record(f"{self.name}, batch {number}, row {within}", each, line_of)

    def _line_of(self, make: Callable[[], object], field: str) -> str:
        """The line of the user's code that gave a row a value."""
        return line_of_value(make, field, [each.columns[0] for each in (*self._layout.inputs, *self._layout.labels)])

    def _again(self, number: int) -> Any:
        """An item of what can only be read in order, counted from 1."""
        return next(islice(self._items(), number - 1, None))

    def _items(self) -> Iterator[Any]:
        given = self._given
        if isinstance(given, Iterator):
            self._given = self._load()
        if self._layout.is_whole(given):
            yield given
            return
        with seeded(0), Telling(self.name):
            items = iter(given)
        for number in count(1):
            with seeded(number), Telling(self.name):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    def _item(self, index: int, seed: str) -> Any:
        with seeded(crc32(seed.encode())), Telling(self.name):
            return self._given[index]

    def _place(self, index: int) -> str:
        return f"{self.name}, row {index + 1}"


class Telling:
    """A block of the user's code, whose exceptions become one line; the end of an iterator passes through, as no generator would let it."""

    def __init__(self, name: str, advice: str = "") -> None:
        self._name, self._advice = name, advice

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, (UserError, StopIteration)):
            raise DataError(f"{self._name} raised {raised(error)}{self._advice}") from error


@dataclass(frozen=True)
class _Layout:
    """How the items of a task's data are laid out.

    Attributes:
        inputs: The inputs, in order.
        labels: The labels, in order.
        deals_rows: Whether items may be batches of rows.
        by_column: Both by the names they may have.
    """

    inputs: tuple[Field, ...]
    labels: tuple[Field, ...]
    deals_rows: bool
    by_column: Mapping[str, Field]

    @classmethod
    def of(cls, task: TaskSpec) -> _Layout:
        inputs, labels = tuple(input_fields(task.signature)), tuple(label_fields(task.signature))
        by_column = {column: each for each in (*labels, *inputs) for column in each.columns}
        return cls(inputs, labels, task.signature.deals_rows, by_column)

    def fields(self, item: Any, where: str) -> dict[str, Any]:
        """The values of an item by name.

        Raises:
            DataError: It is neither a dict nor a tuple of the right length, nor an object with the declared names.
        """
        if is_dataclass(item) or (hasattr(item, "_fields") and any(name in self.by_column for name in item._fields)):
            item = _as_dict(item)
        if isinstance(item, Mapping):
            return self._opened(dict(flattened(_as_dict(item))))
        if isinstance(item, (tuple, list)):
            return self._of_tuple(tuple(item), where)
        if isinstance(item, (Tensor, np.ndarray, int, float)):
            return self._of_tuple((item,), where)
        found = {name: value for name in self.by_column if (value := _part(item, name)) is not None}
        if not found:
            raise DataError(f"{where}: a {type(item).__name__}, expected {self._expected()}")
        return found

    def _opened(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Fields with the parts of tuples and objects that the signature names, as ``pair.0`` or ``batch.image``.

        A group that the signature does not name is looked into: ``inputs.image`` is the image where no other group has one.
        """
        parts = {
            name: _part(fields.get(name.partition(".")[0]), name.partition(".")[2]) for name in self.by_column if "." in name
        }
        within: dict[str, list[Any]] = {}
        for name, value in fields.items():
            last = name.rpartition(".")[2]
            if name not in self.by_column and last in self.by_column and last not in fields:
                within.setdefault(last, []).append(value)
        inner = {name: found[0] for name, found in within.items() if len(found) == 1}
        return {**{name: value for name, value in parts.items() if value is not None}, **inner, **fields}

    def _of_tuple(self, item: tuple[Any, ...], where: str) -> dict[str, Any]:
        if len(item) == 2:
            inputs, labels = item
            several = _is_several(inputs, self.inputs) or _is_several(labels, self.labels)
            if several or isinstance(inputs, Mapping) or isinstance(labels, Mapping):
                named = _named(labels, self.labels)
                return _named(inputs, self.inputs) | {self._as_label(name): value for name, value in named.items()}
        needed = tuple(each for each in self.inputs if each.is_needed)
        for fields in (self.inputs + self.labels, needed + self.labels, self.inputs, needed):
            if len(fields) == len(item):
                return {each.columns[0]: value for each, value in zip(fields, item, strict=True)}
        raise DataError(f"{where}: a tuple of {len(item)}, expected {self._expected()}")

    def _as_label(self, name: str) -> str:
        """An output may have the name of an input; its labels go by ``labels.NAME`` then."""
        return f"labels.{name}" if f"labels.{name}" in self.by_column else name

    def _expected(self) -> str:
        names = ", ".join(each.columns[0] for each in (*self.inputs, *self.labels))
        return f"a dict with the declared names, or a tuple ({names})"

    def is_batch(self, fields: Mapping[str, Any]) -> bool:
        """Whether values have an axis of rows."""
        if not self.deals_rows:
            return False
        for name, value in fields.items():
            known = self.by_column.get(name)
            if known is not None and known.has_rows and not isinstance(value, str):
                return _axes_of(value) == len(known.axes)
        # Rows as they are before a tokenizer: a batch has a list of texts.
        return any(isinstance(value, list) and value and isinstance(value[0], str) for value in fields.values())

    def is_whole(self, given: Any) -> bool:
        """Whether what was given is one batch, or the one example of a task without rows, rather than many of them."""
        if isinstance(given, Mapping):
            return True
        if not isinstance(given, tuple) or not all(isinstance(each, (Tensor, np.ndarray)) for each in given):
            return False
        count = len(self.inputs) + len(self.labels)
        return len(given) == count and given[0].ndim == len(self.inputs[0].axes)

    def rows(self, fields: Mapping[str, Any], where: str) -> Iterator[dict[str, Any]]:
        """The rows of a batch.

        Raises:
            DataError: Its fields have different numbers of rows.
        """
        dealt = {name: _by_row(value, self.by_column.get(name)) for name, value in fields.items()}
        counts = {name: len(value) for name, value in dealt.items() if value is not None}
        if len(set(counts.values())) > 1:
            raise DataError(f"{where}: the fields of a batch have different numbers of rows: {counts}")
        for number in range(next(iter(counts.values()), 0)):
            yield {name: fields[name] if value is None else value[number] for name, value in dealt.items()}


def _as_dict(item: Any) -> Any:
    """Dataclasses and named tuples as dicts, also inside dicts."""
    if is_dataclass(item) and not isinstance(item, type):
        return {each.name: _as_dict(getattr(item, each.name)) for each in dataclasses.fields(item)}
    if isinstance(item, tuple) and hasattr(item, "_asdict"):
        return _as_dict(item._asdict())
    return {name: _as_dict(value) for name, value in item.items()} if type(item) is dict else item


def _part(item: Any, path: str) -> Any:
    """An attribute of an attribute, or an item of a tuple, by a dotted name; ``None`` where it is not there."""
    for name in path.split("."):
        if name.isdigit() and isinstance(item, (tuple, list)):
            item = item[int(name)] if int(name) < len(item) else None
        else:
            item = getattr(item, name, None) if not isinstance(item, Tensor) else None
    return item


def _is_several(given: Any, fields: Sequence[Field]) -> bool:
    """Whether a tuple or list holds the values of several fields, rather than one value."""
    return isinstance(given, (tuple, list)) and len(given) == len(fields) > 1


def _named(given: Any, fields: Sequence[Field]) -> dict[str, Any]:
    if isinstance(given, Mapping):
        return dict(flattened(given))
    values = given if _is_several(given, fields) else (given,)
    return {each.columns[0]: value for each, value in zip(fields, values, strict=False)}


def _axes_of(value: Any) -> int:
    if hasattr(value, "ndim"):
        return int(value.ndim)
    depth = 0
    while isinstance(value, (list, tuple)) and value:
        value, depth = value[0], depth + 1
    return depth + int(getattr(value, "ndim", 0))


def _by_row(value: Any, known: Field | None) -> Any:
    """The values of a field, the rows first; ``None`` for one that all rows share."""
    if known is not None and not known.has_rows:
        return None
    if isinstance(value, (Tensor, np.ndarray)) and value.ndim:
        return value.swapaxes(0, known.rows_at) if known is not None and known.rows_at == 1 else value
    return value if isinstance(value, (list, tuple)) else None
