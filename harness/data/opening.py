"""From the data keys of a config to a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.config import EvalConfig
from harness.data.arrays import ArrayTable, check_arrays
from harness.data.builtin import builtin_source, builtin_tokenizer, class_names, default_dataset
from harness.data.classes import Classes
from harness.data.columns import LABELS, TARGETS, column, items
from harness.data.dataset import Dataset, LazyExamples, Origin, Rows, Stream, no_rows
from harness.data.encoding import Encoder
from harness.data.files import file_source, locate
from harness.data.id_space import IdSpace
from harness.data.image_folder import ImageFolder
from harness.data.packed import PackedExamples
from harness.data.pieces import Pieces
from harness.data.record import Record, SizedSource, Source
from harness.data.splits import Split, SplitRows
from harness.data.text_files import PlainText
from harness.data.tokens import Tokenizer, train_tokenizer
from harness.errors import DataError
from harness.tasks import TaskSpec, TaskType

MEMORY_LIMIT = 16 << 20
"""A file of more bytes than this is streamed."""

_LANGUAGE = (TaskType.CAUSAL_LM, TaskType.MASKED_LM)
_TEXTS = ("text", "source", "target", "tokens", "words")


def open_dataset(
    config: EvalConfig,
    task: TaskSpec,
    folder: Path = Path(),
    split: str = "train",
    like: Dataset | None = None,
    memory_limit: int = MEMORY_LIMIT,
) -> Dataset:
    """Opens the dataset that a config's ``train`` or ``eval`` names; the built-in one for the task where it names none.

    Args:
        config: The data keys.
        task: What the examples are for.
        folder: The config's folder; ``path`` is relative to it.
        split: The split, where the config names none.
        like: The training data, whose tokenizer, classes and feature columns evaluation data must share.
        memory_limit: Bytes of a file that are held in memory; a larger one is streamed.

    Returns:
        ``Rows``, or a ``Stream`` for a large file.

    Raises:
        DataError: The data is missing, unreadable, or does not fit the task; one line, with the file and the line or row.
        MissingPackageError: The data needs a package that is not installed.
    """
    asked = Split.parse(config.split or "", split)
    if config.path is None:
        return _open_builtin(config, task, asked)
    path = locate((folder / Path(config.path).expanduser()).resolve(), asked)
    source = file_source(path, task)
    if isinstance(source, (ArrayTable, ImageFolder)):
        return _open_sized(source, config, task, asked, like)
    size = path.stat().st_size * (4 if path.suffix == ".parquet" else 1)  # Parquet is packed
    return _open_lines(source, config, task, asked, like, stream=size > memory_limit)


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


def _open_sized(
    source: ArrayTable | ImageFolder, config: EvalConfig, task: TaskSpec, asked: Split, like: Dataset | None
) -> Dataset:
    """Opens what is read by row number: arrays in memory, images on disk."""
    if isinstance(source, ArrayTable) and task.is_text:
        return _open_lines(source, config, task, asked, like, stream=False)
    if isinstance(source, ArrayTable):
        check_arrays(source, task)
    classes = _classes(source, task, like)
    encoder = Encoder(task, classes=classes)
    if isinstance(source, ImageFolder) and classes is not None:
        for name in source.class_names:
            classes.id_of(Record(source.name, {}), name)
    picked = _picked(len(source), asked, config.max_eval_examples)
    if not picked:
        raise no_rows(f"{source.name} ({asked})", task)
    return Rows(Origin(source.name, str(asked), encoder), LazyExamples(source, encoder, picked))


def _open_lines(source: Source, config: EvalConfig, task: TaskSpec, asked: Split, like: Dataset | None, stream: bool) -> Dataset:
    """Opens what is read from its beginning."""
    rows: Source = source if isinstance(source, PlainText) else SplitRows(source, asked)
    first = next(iter(rows), None)
    if first is None:
        raise DataError(f"{source.name}: no rows" + (f" in {asked}" if asked.is_share else ": the file is empty"))
    encoder = Encoder(task, _tokenizer(rows, first, task, like), _classes(rows, task, like), _columns(first, task, like))
    rows = _language(rows, task, encoder.tokenizer)
    if isinstance(source, PlainText):
        rows = SplitRows(rows, asked)  # the share is one of sequences, as lines run on
    origin = Origin(source.name, str(asked), encoder)
    if not stream:
        return _in_memory(origin, rows, config.max_eval_examples)
    opened = Stream(origin, rows, config.max_eval_examples)
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


def _tokenizer(rows: Source, first: Record, task: TaskSpec, like: Dataset | None) -> Tokenizer | None:
    if not task.is_text or first.fields.get("input_ids") is not None:
        return None
    if like is not None and like.origin.tokenizer is not None:
        return like.origin.tokenizer
    return train_tokenizer(IdSpace.of(task), _texts(rows))


def _texts(rows: Iterable[Record]) -> Iterator[str]:
    for record in rows:
        for name in _TEXTS:
            value = record.fields.get(name)
            if isinstance(value, str):
                yield value
            elif isinstance(value, (list, tuple)):
                yield " ".join(map(str, value))


def _classes(rows: Source | SizedSource, task: TaskSpec, like: Dataset | None) -> Classes | None:
    if task.num_classes is None or "classes" not in task.facts.output:
        return None
    if like is not None and like.origin.classes is not None:
        return like.origin.classes
    if isinstance(rows, ImageFolder):
        return Classes.of(rows.name, ((Record(rows.name, {}), name) for name in rows.class_names), task.num_classes)
    return Classes.of(rows.name, _labels(rows, task), task.num_classes)


def _labels(rows: Iterable[Record], task: TaskSpec) -> Iterator[tuple[Record, Any]]:
    names = TARGETS if task.modality == "tabular" else LABELS
    if task.task_type is not TaskType.TOKEN_CLASSIFICATION:
        yield from ((record, record.fields[column(record, names, "what the model should say")]) for record in rows)
        return
    for record in rows:
        yield from ((record, label) for label in items(record, column(record, (*LABELS, "tags"), "the classes of the tokens")))


def _columns(first: Record, task: TaskSpec, like: Dataset | None) -> tuple[str, ...]:
    """The feature columns of a table: all but the label's and the split's, in order."""
    if task.modality != "tabular" or first.fields.get("features") is not None:
        return ()
    if like is not None and like.origin.encoder.columns:
        return like.origin.encoder.columns
    label = column(first, TARGETS, "what the model should say")
    names = tuple(name for name in first.fields if name not in (label, "split"))
    if len(names) != task.num_features:
        shown = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
        raise first.refuse(f"{len(names)} feature columns ({shown}), `num_features` says {task.num_features}")
    return names
