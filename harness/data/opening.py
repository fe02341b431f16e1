"""From the data keys of a config to a dataset: find it, read it, and for language models cut it into sequences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import MappingProxyType

import numpy as np

from harness.config import EvalConfig
from harness.data import Example, IndexedReader, Reader, Record, SizedSource, Source
from harness.data.builtin import builtin_source, builtin_tokenizer, class_names, default_dataset
from harness.data.columns import Classes, column, read_text, token_ids
from harness.data.dataset import Dataset, LazyExamples, Origin, PackedExamples, Rows, Stream, no_rows
from harness.data.encoding import Encoder, find_classes, fit_encoder
from harness.data.python_source import open_python
from harness.data.readers import existing, reader_of, suffixes
from harness.data.splits import Split, SplitRows, check_whole, split_of_folder
from harness.data.tokens import Tokenizer
from harness.errors import DataError
from harness.tasks import TaskSpec

MEMORY_LIMIT = 16 << 20
"""A file of more bytes than this is streamed."""


@dataclass(frozen=True)
class _File:
    """A file to open, and what of it.

    Attributes:
        path: The file, or the folder of images.
        named: Whether it is that of a split, from a folder with one for each.
        asked: The split.
        limit: How many rows are wanted; ``None`` for all.
        task: What they are for.
        like: Reads the training data.
        lenient: Whether these are production data.
        beside: Columns that are beside the features, where the features are a column each.
    """

    path: Path
    named: bool
    asked: Split
    limit: int | None
    task: TaskSpec
    like: Encoder | None
    lenient: bool
    beside: tuple[str, ...] = ()

    def origin(self, source: Source, encoder: Encoder, named: bool) -> Origin:
        if not named:
            check_whole(source.name, self.asked)
        return Origin(source.name, self.asked.of(named), encoder, self.path)


def open_dataset(
    config: EvalConfig,
    task: TaskSpec,
    folder: Path = Path(),
    split: str = "train",
    like: Dataset | Encoder | None = None,
    memory_limit: int = MEMORY_LIMIT,
    *,
    lenient: bool = False,
) -> Dataset:
    """Opens the dataset that a config's ``train`` or ``eval`` names; the built-in one for the task where it names none.

    Args:
        config: The data keys.
        task: What the examples are for.
        folder: The config's folder; ``path`` is relative to it.
        split: The split, where the config names none.
        like: The training data, or how it is read: its tokenizer, classes and feature columns are those of evaluation data.
        memory_limit: Bytes of a file that are held in memory; a larger one is streamed.
        lenient: Whether rows are taken as production data comes: without labels, and with numbers that are not finite.

    Returns:
        ``Rows``, or a ``Stream`` for a large file.

    Raises:
        DataError: The data is missing, unreadable, or does not fit the task; one line, with the file and the line or row.
        MissingPackageError: The data needs a package that is not installed.
    """
    asked = Split.parse(config.split or "", split)
    known = like if isinstance(like, Encoder) or like is None else like.origin.encoder
    if config.dataset or config.datamodule:
        return _open_python(config, task, folder, asked, known, lenient)
    if config.path is None:
        return _open_builtin(config, task, asked)
    whole = (folder / Path(config.path).expanduser()).resolve()
    path = locate(whole, asked)
    source = open_reader(path, task, lenient=lenient)
    file = _File(path, path != whole, asked, config.max_eval_examples, task, known, lenient, config.columns_about_rows)
    if isinstance(source, IndexedReader) and not task.is_text:
        return _open_by_number(source, file)
    stream = not isinstance(source, IndexedReader) and path.stat().st_size * source.expansion > memory_limit
    return _open_in_order(source, file, stream)


def locate(path: Path, split: Split) -> Path:
    """The file, or the folder of images, that holds a split.

    Args:
        path: A file; or a folder with one for each split, or with images.
        split: Which split.

    Raises:
        DataError: There is no such file, or none for the split.
    """
    try:
        return split_of_folder(path, split, suffixes()) if path.is_dir() else existing(path)
    except DataError as error:
        raise _of_path(error) from None


def open_reader(path: Path, task: TaskSpec, *, lenient: bool = False) -> Reader:
    """The rows of a file or of a folder.

    Raises:
        DataError: It is of no kind that is read, or of one that does not fit the task.
    """
    try:
        reader = reader_of(path)
    except DataError as error:
        raise _of_path(error) from None
    return reader.open(path, task, lenient=lenient)


def _of_path(error: DataError) -> DataError:
    """An error that names the config's key."""
    message = str(error)
    return error if message.startswith("`") else DataError(f"`path`: {message}")


def _open_builtin(config: EvalConfig, task: TaskSpec, asked: Split) -> Dataset:
    dataset_id = config.dataset_id or default_dataset(task)
    if dataset_id is None:
        made_for = "a declared task" if task.declared is not None else task.title
        raise DataError(f"no built-in dataset for {made_for}: give `train` and `eval` a `path` or a `dataset`")
    source = builtin_source(dataset_id, task, asked.name)
    encoder = Encoder(
        task,
        builtin_tokenizer(dataset_id, task) if task.is_text else None,
        Classes(task.num_classes or 0, class_names(dataset_id)[: task.num_classes]) if "classes" in task.facts.output else None,
    )
    origin = Origin(dataset_id, str(asked), encoder)
    if not task.is_text:
        return _by_number(origin, source, encoder, _picked(len(source), asked, config.max_eval_examples))
    return _in_memory(origin, _language(SplitRows(source, asked), task, encoder.tokenizer), config.max_eval_examples)


def _open_python(config: EvalConfig, task: TaskSpec, folder: Path, asked: Split, like: Encoder | None, lenient: bool) -> Dataset:
    """Opens rows that Python gives: by number where they can be had so, else in memory as far as they fit."""
    rows = open_python(config, task, folder, asked)
    file, _, _ = (config.dataset or config.datamodule or "").rpartition(":")
    code = (folder / file).resolve() if file.endswith(".py") else None
    named = _File(code or Path(), rows.tells_splits, asked, config.max_eval_examples, task, like, lenient)
    first = next(iter(rows), None)
    if first is None:
        raise DataError(f"{rows.name}: no rows")
    source: Source = rows if rows.is_indexed else SplitRows(rows, asked)
    encoder = fit_encoder(source, first, task, like, lenient=lenient, beside=config.columns_about_rows)
    origin = replace(named.origin(rows, encoder, rows.tells_splits), path=code, is_python=True)
    if rows.is_indexed and task.facts.rows != "text":
        picked = _picked(len(rows), asked, config.max_eval_examples)
        if not picked:
            raise DataError(f"{rows.name}: no rows in {asked}")
        encoder(rows[picked[0]])  # what is wrong with every row is said now
        return _by_number(origin, rows, encoder, picked)
    source = _language(source, task, encoder.tokenizer)
    return _held(origin, source, config.max_eval_examples)


_HELD = 256 << 20
"""Bytes of examples that are held in memory where they cannot be had by number."""


def _held(origin: Origin, rows: Source, limit: int | None) -> Dataset:
    """The examples of rows that come in order; a stream where they do not fit into memory."""
    examples, size = list[Example](), 0
    for record in rows if limit is None else islice(rows, limit):
        examples.append(origin.encoder(record))
        size += sum(tensor.nbytes for tensor in examples[-1].values())
        if size > _HELD:
            return Stream(origin, rows, limit)
    if not examples:
        raise no_rows(origin.name, origin.task)
    return Rows(origin, examples, partial(_reread, rows, range(len(examples))))


def _open_by_number(source: IndexedReader, file: _File) -> Rows:
    """Opens rows that are decoded when they are asked for."""
    source.check(file.task, lenient=file.lenient)
    encoder = Encoder(file.task, classes=_classes(source, file), lenient=file.lenient)
    origin = file.origin(source, encoder, file.named)
    picked = _picked(len(source), file.asked, file.limit)
    if not picked:
        raise DataError(f"{source.name}: no rows in {file.asked}")
    if file.task.facts.rows == "fields":
        encoder(source[picked[0]])  # what is wrong with every row is said now
    return _by_number(origin, source, encoder, picked)


def _classes(source: IndexedReader, file: _File) -> Classes | None:
    """The classes: those that the file names, which must be those of the training data, or ids."""
    if not source.class_names:
        return Classes(file.task.num_classes) if file.task.num_classes and not file.task.is_regression else None
    labels = [(Record(source.name, {}), name) for name in source.class_names]
    classes = find_classes(source.name, labels, file.task, file.like)
    for record, name in labels:
        if classes is not None:
            classes.id_of(record, name)
    return classes


def _open_in_order(source: Reader, file: _File, stream: bool) -> Dataset:
    """Opens what is read from its beginning."""
    rows: Source = source if source.is_continuous else SplitRows(source, file.asked)
    first = next(iter(rows), None)
    if first is None:
        raise DataError(f"{source.name}: no rows" + (f" in {file.asked}" if file.asked.is_share else ": the file is empty"))
    encoder = fit_encoder(rows, first, file.task, file.like, lenient=file.lenient, beside=file.beside)
    origin = file.origin(source, encoder, file.named or "split" in first.fields)
    rows = _language(rows, file.task, origin.tokenizer, are_joined=source.is_continuous)
    if source.is_continuous:
        rows = SplitRows(rows, file.asked)  # the share is one of sequences, as a text runs on from row to row
    if not stream:
        return _in_memory(origin, rows, file.limit)
    opened = Stream(origin, rows, file.limit)
    next(iter(opened))  # what is wrong with every row is said now
    return opened


def _in_memory(origin: Origin, rows: Source, limit: int | None) -> Rows:
    made = map(origin.encoder, rows)
    # Rows of fields may differ in every axis, which packing cannot hold.
    examples = PackedExamples(made, origin.name) if origin.task.facts.rows != "fields" else list(made)
    if not examples:
        raise no_rows(origin.name, origin.task)
    numbers = _spread(range(len(examples)), limit)
    return Rows(origin, examples if limit is None else [examples[number] for number in numbers], partial(_reread, rows, numbers))


def _reread(rows: Source, numbers: Sequence[int], name: str) -> Iterator[Record]:
    """The rows of these numbers once more; those that were cut into pieces with one column of what they were cut from."""
    wanted = iter(numbers)
    number = next(wanted, None)
    for place, record in enumerate(replace(rows, kept=name) if isinstance(rows, Pieces) else rows):
        if place == number:
            yield record
            number = next(wanted, None)


def _by_number(origin: Origin, source: SizedSource, encoder: Encoder, picked: Sequence[int]) -> Rows:
    """Rows that are decoded when they are asked for."""
    return Rows(origin, LazyExamples(source, encoder, picked), partial(_records, source, picked))


def _records(source: SizedSource, picked: Sequence[int], _name: str) -> Iterator[Record]:
    return (source[number] for number in picked)


def _language(rows: Source, task: TaskSpec, tokenizer: Tokenizer | None, *, are_joined: bool = False) -> Source:
    return Pieces(rows, task, tokenizer, are_joined) if task.facts.rows == "text" else rows


def _picked(count: int, asked: Split, limit: int | None) -> Sequence[int]:
    numbers = [number for number in range(count) if asked.holds(number)] if asked.is_share else range(count)
    return _spread(numbers, limit)


def _spread(numbers: Sequence[int], limit: int | None) -> Sequence[int]:
    """So many of the numbers, evenly spread: the first ones of a sorted file would be of one class."""
    if limit is None or limit >= len(numbers):
        return numbers
    return [numbers[turn * len(numbers) // limit] for turn in range(limit)]


@dataclass(frozen=True)
class Pieces:
    """The rows of a source as sequences of at most ``max_seq_len`` tokens.

    A longer row becomes several. Lines of plain text are joined, as the file's line ends are mostly the editor's. Rows that
    are too short to learn from (one token for a causal LM, none for a masked one) are left out, and so are blank ones.

    Attributes:
        source: Rows with a text, or with ``input_ids``.
        task: A language model's.
        tokenizer: Reads the texts.
        are_joined: Whether a text runs on from one row to the next.
        kept: A column of a row that each of its pieces has too.
    """

    source: Source
    task: TaskSpec
    tokenizer: Tokenizer | None
    are_joined: bool = False
    kept: str = ""

    @property
    def name(self) -> str:
        """The file or dataset."""
        return self.source.name

    def __iter__(self) -> Iterator[Record]:
        """Records with ``input_ids``; and with ``labels`` where a row had some."""
        return self._joined() if self.are_joined else self._cut()

    def _cut(self) -> Iterator[Record]:
        for record in self.source:
            if record.fields.get("labels") is not None and record.fields.get("input_ids") is not None:
                yield record  # the encoder truncates it, as the labels of a later piece might all be ignored
            else:
                own = {self.kept: record.fields[self.kept]} if self.kept in record.fields else {}
                yield from self._pieces(record.where, self._ids(record), own)

    def _pieces(self, where: str, ids: list[int], own: Mapping[str, object] = MappingProxyType({})) -> Iterator[Record]:
        """Records of arrays, which are small where they wait to be shuffled, and travel to workers as plain bytes."""
        shortest = 2 if any(self.task.signature.with_order("causal")) else 1
        longest = self.task.max_seq_len or 1
        for start in range(0, len(ids), longest):
            piece = ids[start : start + longest]
            if len(piece) >= shortest:
                yield Record(where, {**own, "input_ids": np.array(piece, dtype=np.int32)})

    def _ids(self, record: Record) -> list[int]:
        name = column(record, ("input_ids", "text"), self.task.title)
        if name == "input_ids":
            return token_ids(record, name, self.task).tolist()
        value = record.fields[name]
        if isinstance(value, str) and not value.strip():
            return []
        return read_text(record, name, self.tokenizer)

    def _joined(self) -> Iterator[Record]:
        longest, rest = self.task.max_seq_len or 1, list[int]()
        where = ""
        for record in self.source:
            where = where if rest else record.where
            rest += read_text(record, "text", self.tokenizer, record.fields["text"])
            if len(rest) >= longest:
                whole = len(rest) // longest * longest
                yield from self._pieces(where, rest[:whole])
                rest, where = rest[whole:], record.where
        yield from self._pieces(where, rest)
