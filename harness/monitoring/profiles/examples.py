"""Blocks of the examples of a task: what is measured of their inputs and labels, as the signature declares them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.adapters import Adapter
from harness.batches import IGNORED
from harness.data import Example
from harness.data.columns import UNKNOWN_CLASS, Classes
from harness.data.dataset import Rows, Stream
from harness.data.encoding import Encoder
from harness.data.tokens import SymbolTokenizer
from harness.monitoring.features.values import CORRECT, Block, Numbers, Values
from harness.monitoring.profiles.fields import Field, measure_field, real_elements, row_axes, share_of_each, size_along
from harness.tasks import TaskSpec
from harness.tasks.axes import BATCH
from harness.tasks.kinds import CtcScores, TokenScores
from harness.tasks.signature import Input, Signature
from harness.tasks.spec import data_identity
from harness.tasks.values import Ids, IndexOf, LengthsOf, MaskOf

Measure = Callable[[Sequence[Example]], Mapping[str, Values]]


def example_blocks(dataset: Iterable[Example], task: TaskSpec, measures: Sequence[Measure], batch_size: int) -> Iterator[Block]:
    """The examples of a dataset, measured some at a time."""
    rows = iter(dataset) if not isinstance(dataset, Rows) else (dataset[index] for index in range(len(dataset)))
    while examples := list(islice(rows, batch_size)):
        values = {name: found for measure in measures for name, found in measure(examples).items()}
        labels = _one_label(task.signature, examples)
        if labels is not None and (labels <= UNKNOWN_CLASS).any():
            values = _with_unknown_wrong(values, labels <= UNKNOWN_CLASS)
        unlabelled = _where_any(labels <= IGNORED) if labels is not None else None
        yield Block(len(examples), values, unlabelled=unlabelled, hashes=_hashes(examples, task.signature))


def _hashes(examples: Sequence[Example], signature: Signature) -> NDArray[np.uint64]:
    """A hash of the inputs of each row, uint64 ``[B]``, by which rows that are there twice are told."""
    names = [each.name for each in signature.inputs]
    found = []
    for example in examples:
        content = hashlib.blake2b(digest_size=8)
        for name in names:
            if name in example:
                content.update(example[name].detach().cpu().contiguous().numpy().tobytes())
        found.append(int.from_bytes(content.digest(), "little"))
    return np.array(found, np.uint64)


def _one_label(signature: Signature, examples: Sequence[Example]) -> NDArray[np.float64] | None:
    """The label of each row, float64 ``[B]``; ``None`` where rows have none, or several."""
    key = signature.label_name(signature.main)
    if not signature.has_one_answer or any(key not in example or example[key].ndim for example in examples):
        return None
    return np.array([float(example[key]) for example in examples])


def _where_any(rows: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    return rows if rows.any() else None


def _with_unknown_wrong(values: Mapping[str, Values], unknown: NDArray[np.bool_]) -> dict[str, Values]:
    """What was measured, where each answer to a row of a class that the model does not know is wrong."""
    right = values.get(CORRECT)
    return {**values, CORRECT: Numbers(np.where(unknown, 0.0, right.values))} if isinstance(right, Numbers) else dict(values)


def measures_of(task: TaskSpec, encoder: Encoder, model: Any = None, adapter: Adapter | None = None) -> list[Measure]:
    """What is measured of the examples of a task: inputs, labels, and where there is a model its outputs."""
    measures: list[Measure] = [InputMeter(task.signature, encoder), LabelMeter(task.signature, encoder.classes)]
    if model is not None:
        from harness.monitoring.profiles.outputs import OutputMeter

        measures.append(OutputMeter(model, task, adapter, encoder.classes))
    return measures


def meta_of(task: TaskSpec, encoder: Encoder) -> dict[str, Any]:
    """What windows must have in common with their reference."""
    return {**data_identity(task), "tokenizer": encoder.tokenizer and encoder.tokenizer.fingerprint}


def encoder_of(dataset: Any, task: TaskSpec) -> Encoder:
    """What made the examples of a dataset; a plain one where that is not known."""
    return dataset.origin.encoder if isinstance(dataset, (Rows, Stream)) else Encoder(task)


class InputMeter:
    """Measures the inputs of examples: each by what it holds, and the sizes of the axes that are free.

    Args:
        signature: What an example holds.
        encoder: How the rows were read.
    """

    def __init__(self, signature: Signature, encoder: Encoder) -> None:
        self._signature = signature
        self._encoder = encoder

    def __call__(self, examples: Sequence[Example]) -> Mapping[str, Values]:
        """The features of some examples."""
        inputs = [each for each in self._signature.inputs if not each.state and all(each.name in row for row in examples)]
        inputs = [each for each in inputs if not self._repeats_labels(each) and self._has_rows(each)]
        told = [each for each in inputs if isinstance(each.values, (LengthsOf, MaskOf))]
        held = [each for each in inputs if each not in told]
        measured: dict[str, Values] = {}
        for each in (*held, *told):
            is_only = len(held) == 1 and each in held and bool(row_axes(each.axes))
            field = self._field(each, "" if is_only else safe_name(each.name))
            rows = _arrays(examples, each.name)
            real = [real_elements(self._signature, row, field.along) if field.along else None for row in examples]
            measured |= measure_field(field, rows, real)
            if field.feature("tokens") in measured:
                measured |= self._of_words(field, rows)
        known = {each.values.axis for each in told if isinstance(each.values, LengthsOf)}
        return {**measured, **self._sizes(held, examples, known)}

    def _has_rows(self, each: Input) -> bool:
        return BATCH in each.axes or not self._signature.deals_rows

    def _repeats_labels(self, each: Input) -> bool:
        """Whether an input holds the labels, one step later, as a decoder's does in training."""
        causal = {axis.name for axis in self._signature.with_order("causal")}
        alike = (label for label in self._signature.labels if label.axes == each.axes and isinstance(label.values, Ids))
        return isinstance(each.values, Ids) and bool(causal & set(each.axes)) and any(alike)

    def _field(self, each: Input, name: str) -> Field:
        axes = row_axes(each.axes)
        free = [axis for axis in axes if isinstance(axis, str)]
        is_set = bool(free) and self._signature.axes[free[0]].order == "none"
        along = next((axis for axis in free if self._signature.axes[axis].padding), "")
        columns = tuple(self._encoder.columns) if not name else ()
        return Field(each.name, name, axes, each.values, is_set=is_set, names=columns, along=along)

    def _sizes(self, held: Sequence[Input], examples: Sequence[Example], known: Collection[str]) -> dict[str, Values]:
        """How large each example is along the axes that may have several sizes; where it is padded, how much of it is real."""
        counted = {axis for each in held if isinstance(each.values, Ids) for axis in row_axes(each.axes)} | {*known}
        measured: dict[str, Values] = {}
        for axis in dict.fromkeys(axis for each in held for axis in row_axes(each.axes)):
            if isinstance(axis, int) or axis in counted or len(self._signature.axes[axis].choices()) < 2:
                continue
            real = [real_elements(self._signature, example, axis) for example in examples]
            sizes = [
                size_along(self._signature, example, axis) if keep is None else int(keep.sum())
                for example, keep in zip(examples, real, strict=True)
            ]
            measured[f"size.{axis}"] = Numbers(np.array(sizes, np.float64))
        return measured

    def _of_words(self, field: Field, rows: Sequence[NDArray[Any]]) -> dict[str, Values]:
        """The share of distinct ids; and of words that a tokenizer does not know, where it has a word for them."""
        tokenizer = self._encoder.tokenizer
        distinct = share_of_each([np.unique(row).size for row in rows], rows)
        if not isinstance(tokenizer, SymbolTokenizer):
            return {field.feature("distinct_tokens"): distinct}
        unknown = tokenizer.ids.free[0]
        return {
            field.feature("distinct_tokens"): distinct,
            field.feature("out_of_vocabulary"): share_of_each([int((row == unknown).sum()) for row in rows], rows),
        }


class LabelMeter:
    """Measures the labels of examples; not those that are inputs again, and nothing of rows without labels.

    Args:
        signature: What an example holds.
        classes: What the classes of the main output are called.
    """

    def __init__(self, signature: Signature, classes: Classes | None) -> None:
        self._fields = list(_label_fields(signature, classes.names if classes else ()))

    def __call__(self, examples: Sequence[Example]) -> Mapping[str, Values]:
        """The features of some examples."""
        measured: dict[str, Values] = {}
        for field in self._fields:
            if all(field.key in example for example in examples):
                rows = _arrays(examples, field.key)
                if isinstance(field.values, Ids):
                    rows = [_numbered(row, field) for row in rows]
                if isinstance(field.values, Ids) and field.axes:
                    rows = [row[row != IGNORED] for row in rows]
                measured |= measure_field(field, rows, [None] * len(rows))
        return measured


def _label_fields(signature: Signature, names: tuple[str, ...]) -> Iterator[Field]:
    main = signature.label_name(signature.main)
    known = set(signature.label_sources)
    for each in signature.labels:
        known.add(each.name)
        name = "label" if each.name == main else f"label.{each.name}"
        yield Field(each.name, name, row_axes(each.axes), each.values)
    for output in signature.outputs:
        key, shape = signature.label_name(output), signature.label_shape(output)
        if shape is None or key in known or signature.next_of(output) or signature.has_hidden_labels(output):
            continue
        is_main = output is signature.main
        if isinstance(shape.values, IndexOf):
            continue  # classes whose number is free have no table to be counted in
        yield Field(
            key,
            "label" if is_main else f"label.{output.name}",
            row_axes(shape.axes),
            shape.values,
            are_tokens=isinstance(output.kind, (TokenScores, CtcScores)),
            names=names if is_main and isinstance(shape.values, Ids) else (),
        )


def _numbered(row: NDArray[Any], field: Field) -> NDArray[Any]:
    """Labels, where classes that the model does not know have numbers that the reference never has."""
    assert isinstance(field.values, Ids)
    count = field.values.count
    return row if isinstance(count, tuple) else np.where(row <= UNKNOWN_CLASS, count + UNKNOWN_CLASS - row, row)


def safe_name(name: str) -> str:
    """The name of an input that its features are named by, told from those of labels, outputs and scores."""
    return f"input.{name}" if name.startswith(("label", "output", "score", "size.")) else name


def _arrays(examples: Sequence[Example], name: str) -> list[NDArray[Any]]:
    return [example[name].detach().cpu().numpy() for example in examples]
