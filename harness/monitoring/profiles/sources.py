"""Where rows come from, whatever they are given as: tables, a part of their rows at a time, or examples of a task."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from harness.errors import ProfileError, did_you_mean
from harness.monitoring.features.kinds import Column, block_of, kinds_of
from harness.monitoring.features.values import Block
from harness.tasks.spec import data_identity

if TYPE_CHECKING:
    from torch import nn

    from harness.adapters import Adapter
    from harness.config import EvalConfig
    from harness.data import Reader
    from harness.data.dataset import Dataset
    from harness.tasks import TaskSpec


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


_HELD = 32 << 20
"""Bytes of measured values that are kept from a first reading, so that a second need not measure again."""


@dataclass(frozen=True)
class Reading:
    """How the examples of a task are read.

    Attributes:
        like: The training data, whose tokenizer and classes a file must be read with.
        folder: What a path in an ``EvalConfig`` is relative to.
        split: The split, where the ``EvalConfig`` names none.
        batch_size: Examples that are measured, and given to the model, at once.
    """

    like: Dataset | None = None
    folder: Path = Path()
    split: str = "validation"
    batch_size: int = 32


DEFAULT_READING = Reading()


@dataclass(frozen=True)
class Options:
    """What is measured of rows, and how they are read.

    Attributes:
        task: What examples are for; ``None`` for tables.
        model: Whose outputs are measured too.
        adapter: How it is called.
        categorical: Columns of a table that are levels, whatever they look like.
        reading: How the examples are read.
    """

    task: TaskSpec | None = None
    model: nn.Module | None = None
    adapter: Adapter | None = None
    categorical: tuple[str, ...] = ()
    reading: Reading = DEFAULT_READING


@dataclass(frozen=True)
class Source:
    """Rows to be measured.

    Attributes:
        meta: What windows of such rows share.
        blocks: Measures them, from the first row; given what the columns of a table are, where that is fixed.
        again: Whether that can be done a second time.
    """

    meta: Mapping[str, Any]
    blocks: Callable[[Mapping[str, str] | None], Iterator[Block]]
    again: bool = True


def source_of(data: Any, options: Options) -> Source:
    """The rows of whatever was given.

    Args:
        data: Columns by name (arrays ``[N]``, or ``[N, D]`` for vectors), a data frame, Arrow data, a Parquet, Arrow or CSV file, an
            iterable of parts of a table; or with a task a dataset, an ``EvalConfig``, or the path of a file of examples.
        options: How they are read.

    Raises:
        ProfileError: It is none of these.
        DataError: A file is missing, unreadable, or does not fit the task.
    """
    if _is_config(data) and options.task is None:
        raise ProfileError("an EvalConfig names examples of a task: give `task`")
    if _is_config(data) or (options.task is not None and isinstance(data, (str, Path))):
        return _examples(_opened(data, options), options)
    if options.task is not None and not _is_table(data):
        return _examples(data, options)
    if options.model is not None:
        raise ProfileError("a model's outputs are measured on the examples of a task: give `task` and a dataset")
    again = not isinstance(data, Iterator) and not hasattr(data, "read_next_batch")
    return Source(META, lambda kinds: table_blocks(data, kinds, options.categorical), again)


class Replay:
    """Blocks that are read twice, from memory the second time where they fit.

    Args:
        source: The rows.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._held: list[Block] | None = []
        self._bytes = 0

    def first(self) -> Iterator[Block]:
        """The blocks, read."""
        for block in self._source.blocks(None):
            self._hold(block)
            yield block

    def second(self, kinds: Mapping[str, str]) -> Iterator[Block]:
        """The blocks once more.

        Raises:
            ProfileError: They did not fit into memory, and cannot be read again.
        """
        if self._held is not None:
            return iter(self._held)
        if not self._source.again:
            raise ProfileError(
                "a reference reads its rows twice, and these can be read only once: give a file, a list of parts, or columns in memory"
            )
        return self._source.blocks(kinds)

    def _hold(self, block: Block) -> None:
        self._bytes += block.nbytes
        if self._held is not None and self._bytes <= _HELD:
            self._held.append(block)
        else:
            self._held = None


def _is_config(data: Any) -> TypeGuard[EvalConfig]:
    """Whether data is an ``EvalConfig``; if so its module is loaded, and otherwise it need not be."""
    module = sys.modules.get("harness.config")
    return module is not None and isinstance(data, module.EvalConfig)


def _is_table(data: Any) -> bool:

    return isinstance(data, Mapping) or hasattr(data, "columns") or is_arrow(data)


def _opened(data: EvalConfig | str | Path, options: Options) -> Dataset:
    from harness.config import EvalConfig
    from harness.data.opening import open_dataset

    assert options.task is not None
    config = data if isinstance(data, EvalConfig) else EvalConfig(path=str(data))
    return open_dataset(config, options.task, options.reading.folder, options.reading.split, options.reading.like)


def _examples(dataset: Any, options: Options) -> Source:
    from harness.monitoring.profiles.examples import encoder_of, example_blocks, measures_of, meta_of

    task = options.task
    assert task is not None
    if not isinstance(dataset, Iterable) and not hasattr(dataset, "__getitem__"):
        raise ProfileError(
            f"a {type(dataset).__name__} is no dataset: give what `open_dataset` returns, or an iterable of examples"
        )
    encoder = encoder_of(dataset, task)
    measures = measures_of(task, encoder, options.model, options.adapter)
    again = not isinstance(dataset, Iterator)
    return Source(
        meta_of(task, encoder), lambda _kinds: example_blocks(dataset, task, measures, options.reading.batch_size), again
    )
