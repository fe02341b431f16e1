"""What is learnt from the training rows before any is encoded: the tokenizer, the classes and the feature columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from harness.data.classes import Classes
from harness.data.columns import LABELS, TARGETS, column, is_empty, items
from harness.data.encoding import Encoder
from harness.data.id_space import IdSpace
from harness.data.record import Record, Source
from harness.data.tokens import Tokenizer, train_tokenizer
from harness.tasks import TaskSpec, TaskType

_PURPOSE = "what the model should say"
_LOOKED_AT = 1000
_TEXTS = ("text", "source", "target", "tokens", "words")


def fit_encoder(rows: Source, first: Record, task: TaskSpec, like: Encoder | None, *, lenient: bool = False) -> Encoder:
    """The encoder for rows.

    Args:
        rows: The training rows; of a large file, some of the text and where classes have names every label is read.
        first: The first of them.
        task: What they are for.
        like: The training data's encoder, where these are rows to evaluate on.
        lenient: Whether they are production data, which need not have labels.

    Raises:
        DataError: The rows do not fit the task.
        MissingPackageError: The vocabulary needs ``tokenizers``, which is not installed.
    """
    labelled = not lenient or _is_labelled(rows, first, _label_names(task))
    return Encoder(
        task,
        _tokenizer(rows, first, task, like),
        find_classes(rows.name, _labels(rows, task) if labelled else (), task, like),
        _columns(first, task, like, lenient),
        lenient,
        labelled,
    )


def _is_labelled(rows: Iterable[Record], first: Record, names: tuple[str, ...]) -> bool:
    """Whether any row of production data has a label; labels may come later for some rows, or for all."""
    has_column = any(name in first.fields for name in names)
    looked_at = rows if has_column else islice(rows, _LOOKED_AT)  # a table without the column has it nowhere; JSON lines may
    return any(not is_empty(record.fields.get(name)) for record in looked_at for name in names)


def find_classes(name: str, labels: Iterable[tuple[Record, Any]], task: TaskSpec, like: Encoder | None) -> Classes | None:
    """The classes of labels, or the training data's; ``None`` for a task without.

    Raises:
        DataError: There are more than the task has.
    """
    if task.num_classes is None or "classes" not in task.facts.output:
        return None
    if like is not None and like.classes is not None:
        return like.classes
    return Classes.of(name, labels, task.num_classes)


def _tokenizer(rows: Source, first: Record, task: TaskSpec, like: Encoder | None) -> Tokenizer | None:
    if not task.is_text or first.fields.get("input_ids") is not None:
        return None
    if like is not None and like.tokenizer is not None:
        return like.tokenizer
    return train_tokenizer(IdSpace.of(task), _texts(rows))


def _texts(rows: Iterable[Record]) -> Iterator[str]:
    for record in rows:
        for name in _TEXTS:
            value = record.fields.get(name)
            if isinstance(value, str):
                yield value
            elif isinstance(value, (list, tuple)):
                yield " ".join(map(str, value))


def _labels(rows: Iterable[Record], task: TaskSpec) -> Iterator[tuple[Record, Any]]:
    names = _label_names(task)
    if task.task_type is not TaskType.TOKEN_CLASSIFICATION:
        found = (
            (record, next((record.fields[name] for name in names if not is_empty(record.fields.get(name))), None))
            for record in rows
        )
        yield from ((record, label) for record, label in found if label is not None)
        return
    for record in rows:
        yield from ((record, label) for label in items(record, column(record, names, _PURPOSE)))


def _label_names(task: TaskSpec) -> tuple[str, ...]:
    """The columns in which labels may be."""
    if task.task_type is TaskType.TOKEN_CLASSIFICATION:
        return (*LABELS, "tags")
    return TARGETS if task.facts.modality == "tabular" else LABELS


def _columns(first: Record, task: TaskSpec, like: Encoder | None, lenient: bool) -> tuple[str, ...]:
    """The feature columns of a table: all but the label's and the split's, in order."""
    if task.facts.modality != "tabular" or first.fields.get("features") is not None:
        return ()
    if like is not None and like.columns:
        return like.columns
    there = [name for name in TARGETS if name in first.fields]
    label = next((name for name in there if not is_empty(first.fields[name])), there[0] if there else None)
    if label is None and not lenient:
        column(first, TARGETS, _PURPOSE)  # says that there is none
    names = tuple(name for name in first.fields if name not in (label, "split"))
    if len(names) != task.num_features:
        shown = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
        raise first.refuse(f"{len(names)} feature columns ({shown}), `num_features` says {task.num_features}")
    return names
