"""From a row to an example: tokens, labels and pixels as a task's fields; and what is learnt from the training rows for that."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.batches import IGNORED
from harness.data import LABELS, TARGETS, Example, Record, Source
from harness.data.columns import (
    UNKNOWN_CLASS,
    Classes,
    check_range,
    checked_ids,
    column,
    is_empty,
    items,
    number,
    numbers,
    read_text,
    token_ids,
    unpadded,
    whole_numbers,
)
from harness.data.declared_rows import RowReader, label_fields
from harness.data.readers.images import decode
from harness.data.tokens import IdSpace, Tokenizer, filler, train_tokenizer
from harness.errors import DataError, did_you_mean
from harness.tasks import TaskSpec
from harness.wording import listed

_SHOWN_OF_CELL = 40


@dataclass(frozen=True)
class Encoder:
    """Makes the examples of a task.

    Attributes:
        task: The task.
        tokenizer: Reads texts; ``None`` where the rows hold token ids, or no text.
        classes: Reads class labels; ``None`` where the task has none.
        columns: Feature columns in order, where a row's features are a column each.
        lenient: Whether rows are taken as production data comes: without labels, and with numbers that are not finite.
        labelled: Whether any row has a label; one without has -100 then, where a row has one class.
        unknown_classes: Classes of production data that the training data does not have, in the order in which they were met.
        new_columns: Of the first row of production data that lacks a feature column, the columns that are no features.
        unread: Of production data, the first text of each feature column that is no number; such cells are missing.
    """

    task: TaskSpec
    tokenizer: Tokenizer | None = None
    classes: Classes | None = None
    columns: tuple[str, ...] = ()
    lenient: bool = False
    labelled: bool = True
    unknown_classes: list[str] = field(default_factory=list, compare=False)
    new_columns: list[str] = field(default_factory=list, compare=False)
    unread: dict[str, str] = field(default_factory=dict, compare=False)

    def __call__(self, record: Record) -> Example:
        """The example of a row, truncated to ``max_seq_len`` and not padded.

        Raises:
            DataError: The row does not fit the task; the message names the file and the line.
        """
        return _ENCODERS[self.task.facts.rows](self, record)

    def _fields(self, record: Record) -> Example:
        return self._reader(record)

    @cached_property
    def _reader(self) -> RowReader:
        return RowReader(self.task.signature, self.lenient, self.labelled)

    def _language(self, record: Record) -> Example:
        ids = self._tokens(record, "text")
        if record.fields.get("labels") is not None:
            return self._learnable(record, _cut(self.task, input_ids=ids, labels=self._aligned_labels(record, len(ids))))
        labels = {} if self.task.has_random_labels else {"labels": ids}
        return _cut(self.task, input_ids=ids, **labels)

    def _learnable(self, record: Record, example: Example) -> Example:
        learnt = example["labels"][1:] if self.task.signature.next_of(self.task.signature.main) else example["labels"]
        if not bool((learnt != IGNORED).any()):
            raise record.refuse(f"`labels` are all {IGNORED} within `max_seq_len` {self.task.max_seq_len}: nothing to learn from")
        return example

    def _sequence_class(self, record: Record) -> Example:
        return {**_cut(self.task, input_ids=self._tokens(record, "text")), **self._label(record)}

    def _token_classes(self, record: Record) -> Example:
        name = column(record, (*LABELS, "tags"), "the classes of the tokens")
        labels = [IGNORED if label == IGNORED else self._class_id(record, label, name) for label in items(record, name)]
        if record.fields.get("input_ids") is None:
            return self._tagged_words(record, labels)
        ids, real = unpadded(record, "input_ids", self.task)
        if len(labels) != len(real):
            raise record.refuse(f"{len(labels)} `{name}` for {len(real)} `input_ids`")
        return self._learnable(record, _cut(self.task, input_ids=ids, labels=torch.tensor(labels)[real]))

    def _tagged_words(self, record: Record, labels: list[int]) -> Example:
        """A word's label stands at its first token; the loss leaves the others out."""
        words = items(record, column(record, ("tokens", "words", "text"), "the words"))
        if len(words) != len(labels) or not words:
            raise record.refuse(f"{len(labels)} labels for {len(words)} words")
        separator = " " if self.tokenizer is None or self.tokenizer.kind != "words" else ""
        ids, spread = list[int](), list[int]()
        for position, (word, label) in enumerate(zip(words, labels, strict=True)):
            tokens = read_text(record, "tokens", self.tokenizer, f"{separator if position else ''}{word}")
            ids += tokens
            spread += [label, *[IGNORED] * (len(tokens) - 1)]
        return self._learnable(record, _cut(self.task, input_ids=torch.tensor(ids), labels=torch.tensor(spread)))

    def _pair(self, record: Record) -> Example:
        source = self._tokens(record, "source")
        if record.fields.get("labels") is None:
            decoder, labels = self._target(record)
        else:
            labels = self._target_labels(record)
            decoder = self._decoder_input(record, labels)
        longest = self.task.max_seq_len
        example = {"input_ids": source[:longest], "decoder_input_ids": decoder[:longest], "labels": labels[:longest]}
        return self._learnable(record, example)

    def _target(self, record: Record) -> tuple[Tensor, Tensor]:
        name = column(record, ("target", "labels"), "what the decoder writes")
        tokens = read_text(record, name, self.tokenizer)
        start, end = IdSpace.of(self.task).start, IdSpace.of(self.task).end
        assert start is not None
        assert end is not None
        return torch.tensor([start, *tokens]), torch.tensor([*tokens, end])

    def _decoder_input(self, record: Record, labels: Tensor) -> Tensor:
        """The row's own ``decoder_input_ids``, or its labels moved right behind the padding token, as T5 and BART have it."""
        if record.fields.get("decoder_input_ids") is None:
            moved = torch.cat([labels.new_tensor([filler(self.task)]), labels[:-1]])
            return moved.masked_fill(moved == IGNORED, filler(self.task))
        ids = checked_ids(record, "decoder_input_ids", self.task)
        if len(ids) < len(labels):
            raise record.refuse(f"{len(labels)} `labels` for {len(ids)} `decoder_input_ids`")
        return ids[: len(labels)]

    def _image(self, record: Record) -> Example:
        assert self.task.image_size is not None
        name = column(record, ("pixel_values", "image"), "the image")
        if name == "image":
            if not isinstance(record.fields[name], Path):
                raise record.refuse("`image` is read from image folders only; give `pixel_values`, or a folder for each class")
            pixels = decode(record.fields[name], self.task.image_size, record.where)
        else:
            pixels = numbers(record, name, finite=not self.lenient)
            if tuple(pixels.shape) != self.task.image_size:
                raise record.refuse(f"`{name}` has shape {tuple(pixels.shape)}, the task says {self.task.image_size}")
        return {"pixel_values": pixels, **self._label(record)}

    def _table(self, record: Record) -> Example:
        return {"features": self._features(record), **self._label(record)}

    def _features(self, record: Record) -> Tensor:
        if record.fields.get("features") is not None:
            features = numbers(record, "features", finite=not self.lenient)
            if tuple(features.shape) != (self.task.num_features,):
                raise record.refuse(f"`features` of shape {tuple(features.shape)}, the task says ({self.task.num_features},)")
            return features
        missing = [name for name in self.columns if name not in record.fields]
        if missing and (not self.lenient or len(missing) == len(self.columns)):
            near = did_you_mean(missing[0], record.fields)
            raise record.refuse(f"no column `{missing[0]}`.{near} The features are {', '.join(self.columns)}")
        # A column that is gone from production data is missing in every row, which is a finding of its drift.
        if missing and not self.new_columns:
            self.new_columns.extend(name for name in record.fields if name not in self.columns and name not in TARGETS)
        there = {name: self._number(record, name) for name in self.columns if name not in missing}
        return torch.tensor([there.get(name, math.nan) for name in self.columns])

    def _number(self, record: Record, name: str) -> float:
        """A feature; one of production data that is no number is missing, and told with the drift of its column."""
        try:
            return number(record, name, finite=not self.lenient)
        except DataError:
            if not self.lenient:
                raise
            self.unread.setdefault(name, str(record.fields[name])[:_SHOWN_OF_CELL])
            return math.nan

    def _tokens(self, record: Record, name: str) -> Tensor:
        found = column(record, ("input_ids", name), "the model's input")
        if found == "input_ids":
            ids = token_ids(record, found, self.task)
        else:
            ids = torch.tensor(read_text(record, found, self.tokenizer), dtype=torch.long)
        if not len(ids):
            raise record.refuse(f"`{found}` has no tokens")
        return ids

    def _label(self, record: Record) -> Example:
        names = TARGETS if self.task.facts.modality == "tabular" else LABELS
        if self.lenient and (not self.labelled or all(is_empty(record.fields.get(name)) for name in names)):
            return self._no_label(record, names)
        name = column(record, names, "what the model should say")
        if self.task.is_regression:
            return {"labels": torch.tensor(number(record, name))}
        if is_empty(record.fields[name]):
            raise record.refuse(f"`{name}` is empty")
        return {"labels": torch.tensor(self._class_id(record, record.fields[name], name))}

    def _no_label(self, record: Record, names: tuple[str, ...]) -> Example:
        """Of a row whose label is not known, or not yet."""
        if not self.labelled:
            return {}
        if self.task.is_regression:
            raise record.refuse(f"no `{names[0]}`, though other rows have one; leave the column out until all are known")
        return {"labels": torch.tensor(IGNORED)}

    def _class_id(self, record: Record, label: object, name: str) -> int:
        assert self.classes is not None
        if self.lenient and self.classes.is_unknown(label):
            if str(label) not in self.unknown_classes:
                self.unknown_classes.append(str(label))
            return UNKNOWN_CLASS - self.unknown_classes.index(str(label))
        return self.classes.id_of(record, label, name)

    def _aligned_labels(self, record: Record, length: int) -> Tensor:
        """A label for each real token: its own id, or -100 where the loss looks away."""
        labels = whole_numbers(record, "labels")
        real = unpadded(record, "input_ids", self.task)[1]
        labels = labels[real] if len(labels) == len(real) else labels
        if len(labels) != length:
            raise record.refuse(f"{len(labels)} `labels` for {len(real)} `input_ids`")
        check_range(record, "labels", labels[labels != IGNORED], self.task)
        return labels

    def _target_labels(self, record: Record) -> Tensor:
        """A target's token ids, without the -100 that pads it."""
        labels = whole_numbers(record, "labels")
        learnt = (labels != IGNORED).nonzero().flatten()
        check_range(record, "labels", labels[learnt], self.task)
        return labels[: int(learnt[-1]) + 1] if len(learnt) else labels[:0]


def _cut(task: TaskSpec, **fields: Tensor) -> Example:
    return {name: tensor[: task.max_seq_len] for name, tensor in fields.items()}


_ENCODERS: dict[str, Callable[[Encoder, Record], Example]] = {
    "text": Encoder._language,
    "labelled_text": Encoder._sequence_class,
    "tagged_text": Encoder._token_classes,
    "pair_of_texts": Encoder._pair,
    "image": Encoder._image,
    "table": Encoder._table,
    "fields": Encoder._fields,
}
"""By what a row of the task's data holds."""


_PURPOSE = "what the model should say"
_LOOKED_AT = 1000
_TEXTS = ("text", "source", "target", "tokens", "words")


def fit_encoder(
    rows: Source, first: Record, task: TaskSpec, like: Encoder | None, *, lenient: bool = False, beside: Sequence[str] = ()
) -> Encoder:
    """The encoder for rows.

    Args:
        rows: The training rows; of a large file, some of the text and where classes have names every label is read.
        first: The first of them.
        task: What they are for.
        like: The training data's encoder, where these are rows to evaluate on.
        lenient: Whether they are production data, which need not have labels.
        beside: Columns that are features only where ``num_features`` counts them.

    Raises:
        DataError: The rows do not fit the task.
        MissingPackageError: The vocabulary needs ``tokenizers``, which is not installed.
    """
    if task.facts.rows == "fields":
        columns = tuple(column for field in label_fields(task.signature) for column in field.columns)
        return Encoder(task, lenient=lenient, labelled=not lenient or _is_labelled(rows, first, columns))
    labelled = not lenient or _is_labelled(rows, first, _label_names(task))
    classes = find_classes(rows.name, _labels(rows, task) if labelled else (), task, like)
    if lenient and labelled and classes is not None:
        _check_names(rows, task, classes)
    return Encoder(
        task,
        _tokenizer(rows, first, task, like),
        classes,
        _columns(first, task, like, lenient, beside),
        lenient,
        labelled,
    )


def _check_names(rows: Source, task: TaskSpec, classes: Classes) -> None:
    """Refuses labels of production data whose numbers nothing can tell.

    Raises:
        DataError: No label is a class of the training data; or there is no training data, and some classes have no row.
    """
    labels = _labels(rows, task)
    first = next(labels, None)
    if first is None:
        return
    if classes.is_unknown(first[1]) and all(classes.is_unknown(label) for _, label in labels):
        classes.id_of(*first)
    if 0 < len(classes.names) < classes.count:
        raise DataError(
            f"{rows.name}: the labels name {len(classes.names)} of {classes.count} classes ({listed(classes.names)}), so that nothing says "
            "which numbers they have: name the training data with `train`, or a reference with `reference_profile_id`"
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
    if task.facts.rows != "tagged_text":
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
    if task.facts.rows == "tagged_text":
        return (*LABELS, "tags")
    return TARGETS if task.facts.modality == "tabular" else LABELS


def _columns(first: Record, task: TaskSpec, like: Encoder | None, lenient: bool, beside: Sequence[str] = ()) -> tuple[str, ...]:
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
        names = tuple(name for name in names if name not in beside)
    if len(names) != task.num_features:
        shown = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
        hint = "; name those that are no features by `without`" if len(names) > (task.num_features or 0) else ""
        raise first.refuse(f"{len(names)} feature columns ({shown}), `num_features` says {task.num_features}{hint}")
    return names
