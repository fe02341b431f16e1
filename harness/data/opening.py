"""From the data keys of a config to a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.config import EvalConfig
from harness.data.arrays import ArrayTable, check_arrays
from harness.data.builtin import builtin_source, builtin_tokenizer, class_names, default_dataset
from harness.data.classes import Classes
from harness.data.dataset import Dataset, LazyExamples, Origin, Rows, Stream, no_rows
from harness.data.encoding import Encoder
from harness.data.files import file_source, locate
from harness.data.fitting import find_classes, fit_encoder
from harness.data.image_folder import ImageFolder
from harness.data.packed import PackedExamples
from harness.data.pieces import Pieces
from harness.data.record import Record, Source
from harness.data.splits import Split, SplitRows, check_whole
from harness.data.text_files import PlainText
from harness.data.tokens import Tokenizer
from harness.errors import DataError
from harness.tasks import TaskSpec, TaskType

MEMORY_LIMIT = 16 << 20
"""A file of more bytes than this is streamed."""

_LANGUAGE = (TaskType.CAUSAL_LM, TaskType.MASKED_LM)


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
    """

    path: Path
    named: bool
    asked: Split
    limit: int | None
    task: TaskSpec
    like: Encoder | None
    lenient: bool

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
    if config.path is None:
        return _open_builtin(config, task, asked)
    whole = (folder / Path(config.path).expanduser()).resolve()
    path = locate(whole, asked)
    source = file_source(path, task, lenient=lenient)
    known = like if isinstance(like, Encoder) or like is None else like.origin.encoder
    file = _File(path, path != whole, asked, config.max_eval_examples, task, known, lenient)
    if isinstance(source, ImageFolder):
        return _open_images(source, file)
    if isinstance(source, ArrayTable) and not task.is_text:
        return _open_arrays(source, file)
    size = path.stat().st_size * (4 if path.suffix == ".parquet" else 1)  # Parquet is packed
    return _open_lines(source, file, stream=size > memory_limit and not isinstance(source, ArrayTable))


def _open_builtin(config: EvalConfig, task: TaskSpec, asked: Split) -> Dataset:
    dataset_id = config.dataset_id or default_dataset(task)
    if dataset_id is None:
        raise DataError(f"no built-in dataset for {task.task_type.value}: give `train` and `eval` a `path`")
    source = builtin_source(dataset_id, task, asked.name)
    encoder = Encoder(
        task,
        builtin_tokenizer(dataset_id, task) if task.is_text else None,
        Classes(task.num_classes or 0, class_names(dataset_id)[: task.num_classes]) if "classes" in task.facts.output else None,
    )
    origin = Origin(dataset_id, str(asked), encoder)
    if not task.is_text:
        return Rows(origin, LazyExamples(source, encoder, _picked(len(source), asked, config.max_eval_examples)))
    return _in_memory(origin, _language(SplitRows(source, asked), task, encoder.tokenizer), config.max_eval_examples)


def _open_images(source: ImageFolder, file: _File) -> Rows:
    labels = [(Record(source.name, {}), name) for name in source.class_names]
    classes = find_classes(source.name, labels, file.task, file.like)
    for record, name in labels:
        if classes is not None:
            classes.id_of(record, name)
    return _by_number(source, file, Encoder(file.task, classes=classes))


def _open_arrays(source: ArrayTable, file: _File) -> Rows:
    check_arrays(source, file.task, lenient=file.lenient)
    classes = Classes(file.task.num_classes) if file.task.num_classes and not file.task.is_regression else None
    return _by_number(source, file, Encoder(file.task, classes=classes, lenient=file.lenient))


def _by_number(source: ArrayTable | ImageFolder, file: _File, encoder: Encoder) -> Rows:
    origin = file.origin(source, encoder, file.named)
    picked = _picked(len(source), file.asked, file.limit)
    if not picked:
        raise DataError(f"{source.name}: no rows in {file.asked}")
    return Rows(origin, LazyExamples(source, encoder, picked))


def _open_lines(source: Source, file: _File, stream: bool) -> Dataset:
    """Opens what is read from its beginning."""
    rows: Source = source if isinstance(source, PlainText) else SplitRows(source, file.asked)
    first = next(iter(rows), None)
    if first is None:
        raise DataError(f"{source.name}: no rows" + (f" in {file.asked}" if file.asked.is_share else ": the file is empty"))
    encoder = fit_encoder(rows, first, file.task, file.like, lenient=file.lenient)
    origin = file.origin(source, encoder, file.named or "split" in first.fields)
    rows = _language(rows, file.task, origin.tokenizer)
    if isinstance(source, PlainText):
        rows = SplitRows(rows, file.asked)  # the share is one of sequences, as lines run on
    if not stream:
        return _in_memory(origin, rows, file.limit)
    opened = Stream(origin, rows, file.limit)
    next(iter(opened))  # what is wrong with every row is said now
    return opened


def _in_memory(origin: Origin, rows: Source, limit: int | None) -> Rows:
    examples = PackedExamples(map(origin.encoder, rows), origin.name)
    if not examples:
        raise no_rows(origin.name, origin.task)
    return Rows(origin, examples if limit is None else [examples[number] for number in _spread(range(len(examples)), limit)])


def _language(rows: Source, task: TaskSpec, tokenizer: Tokenizer | None) -> Source:
    return Pieces(rows, task, tokenizer) if task.task_type in _LANGUAGE else rows


def _picked(count: int, asked: Split, limit: int | None) -> Sequence[int]:
    numbers = [number for number in range(count) if asked.holds(number)] if asked.is_share else range(count)
    return _spread(numbers, limit)


def _spread(numbers: Sequence[int], limit: int | None) -> Sequence[int]:
    """So many of the numbers, evenly spread: the first ones of a sorted file would be of one class."""
    if limit is None or limit >= len(numbers):
        return numbers
    return [numbers[turn * len(numbers) // limit] for turn in range(limit)]
