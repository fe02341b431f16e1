"""Where rows come from, whatever they are given as: tables, a part of their rows at a time, or examples of a task."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from harness.errors import ProfileError
from harness.monitoring.features.values import Block
from harness.monitoring.profiles.tables import is_arrow, table_blocks
from harness.tasks.spec import data_identity

if TYPE_CHECKING:
    from torch import nn

    from harness.adapters import Adapter
    from harness.config import EvalConfig
    from harness.data.dataset import Dataset
    from harness.tasks import TaskSpec


META = {**data_identity(None), "tokenizer": None}
"""What windows of tables share."""

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
        without: Columns of a table that are not features.
        reading: How the examples are read.
    """

    task: TaskSpec | None = None
    model: nn.Module | None = None
    adapter: Adapter | None = None
    categorical: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
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
    return Source(META, lambda kinds: table_blocks(data, kinds, options.categorical, options.without), again)


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
            f"{type(dataset).__name__} is not a dataset: give what `open_dataset` returns, or an iterable of examples"
        )
    encoder = encoder_of(dataset, task)
    measures = measures_of(task, encoder, options.model, options.adapter)
    again = not isinstance(dataset, Iterator)
    return Source(
        meta_of(task, encoder), lambda _kinds: example_blocks(dataset, task, measures, options.reading.batch_size), again
    )
