"""The built-in datasets: made here, small, and the same to the byte on every machine."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from harness.data import languages, stories, topics
from harness.data.grammar import distinct
from harness.data.id_space import IdSpace
from harness.data.record import Record, RecordList, SizedSource
from harness.data.shapes import SHAPES, ShapeSource
from harness.data.tokens import SymbolTokenizer
from harness.errors import DataError, did_you_mean
from harness.tasks import TaskSpec, TaskType

ROWS = {"train": 800, "validation": 100, "test": 100}
"""The splits, and how many rows each has."""

SMALLEST_VOCABULARY = 16
"""With fewer ids most words would be the unknown one."""

_FITS = {
    "lm_tiny_v1": (TaskType.CAUSAL_LM, TaskType.MASKED_LM),
    "cls_tiny_v1": (TaskType.SEQUENCE_CLASSIFICATION, TaskType.CAUSAL_LM, TaskType.MASKED_LM),
    "seq2seq_tiny_v1": (TaskType.SEQ2SEQ_LM,),
    "vision_tiny_v1": (TaskType.IMAGE_CLASSIFICATION,),
}


def default_dataset(task: TaskSpec) -> str | None:
    """The built-in set made for a task type, or ``None`` where there is none."""
    return next((name for name, tasks in _FITS.items() if task.task_type in tasks), None)


def class_names(dataset_id: str) -> tuple[str, ...]:
    """The classes of a built-in set in the order of their ids."""
    return {"cls_tiny_v1": tuple(sorted(topics.WORDS)), "vision_tiny_v1": tuple(SHAPES)}.get(dataset_id, ())


def builtin_source(dataset_id: str, task: TaskSpec, split: str) -> SizedSource:
    """The rows of a split.

    Args:
        dataset_id: One of ``harness.presets.DATASETS``.
        task: What they are for; a task with fewer classes than the set gets the rows of its first ones.
        split: ``train``, ``validation`` or ``test``.

    Raises:
        DataError: There is no such split, or the set is not made for the task.
    """
    if split not in ROWS:
        raise DataError(f"`split`: {dataset_id} has no split {split!r}.{did_you_mean(split, ROWS)} It has {', '.join(ROWS)}")
    if task.task_type not in _FITS[dataset_id]:
        fitting = default_dataset(task)
        instead = f"`dataset_id` {fitting!r}" if fitting else "a file of your own by `path`"
        raise DataError(f"`dataset_id`: {dataset_id} has no rows for {task.task_type.value}; give {instead}")
    if dataset_id == "vision_tiny_v1":
        assert task.image_size is not None
        return ShapeSource(dataset_id, f"{dataset_id}:{split}", ROWS[split], task.image_size, task.num_classes or len(SHAPES))
    rows = _SPLITTERS[dataset_id]()[split]
    if task.task_type is TaskType.SEQUENCE_CLASSIFICATION:
        rows = [row for row in rows if row["label"] in class_names(dataset_id)[: task.num_classes]]
    return RecordList(dataset_id, [Record(f"{dataset_id}, row {number}", row) for number, row in enumerate(rows, 1)])


def builtin_tokenizer(dataset_id: str, task: TaskSpec) -> SymbolTokenizer:
    """The words of a set's training split, the most frequent ones where the vocabulary is smaller.

    Raises:
        DataError: The vocabulary is smaller than any sense can be made of.
    """
    if (task.vocab_size or 0) < SMALLEST_VOCABULARY:
        raise DataError(f"`vocab_size` {task.vocab_size}: {dataset_id} needs {SMALLEST_VOCABULARY} ids or more")
    texts = (text for row in _SPLITTERS[dataset_id]()["train"] for name, text in row.items() if name != "label")
    return SymbolTokenizer.trained("words", IdSpace.of(task), texts)


def _split(rows: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    """Deals rows out to the splits."""
    left = iter(rows)
    return {split: [next(left) for _ in range(count)] for split, count in ROWS.items()}


@cache
def _stories() -> dict[str, list[dict[str, str]]]:
    return _split([{"text": text} for text in distinct(stories.story, sum(ROWS.values()), "lm_tiny_v1")])


@cache
def _topics() -> dict[str, list[dict[str, str]]]:
    names = sorted(topics.WORDS)
    each = sum(ROWS.values()) // len(names)
    sentences = [distinct(topics.sentence_about(name), each, f"cls_tiny_v1:{name}") for name in names]
    turns = zip(*sentences, strict=True)
    return _split([{"text": text, "label": name} for turn in turns for name, text in zip(names, turn, strict=True)])


@cache
def _pairs() -> dict[str, list[dict[str, str]]]:
    pairs = distinct(languages.pair, sum(ROWS.values()), "seq2seq_tiny_v1")
    return _split([{"source": english, "target": tilo} for english, tilo in pairs])


_SPLITTERS: dict[str, Callable[[], dict[str, list[dict[str, str]]]]] = {
    "lm_tiny_v1": _stories,
    "cls_tiny_v1": _topics,
    "seq2seq_tiny_v1": _pairs,
}
