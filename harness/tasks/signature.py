"""The signature of a task: what goes in, what comes out, and what is promised. Everything the suite asks of a model follows from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from harness.tasks.axes import ANY_SIZE, BATCH, MEASURED, Axis, Formula, Limit, Size, formulas_of, keep_limits, rows_first
from harness.tasks.inputs_and_outputs import Group as Group
from harness.tasks.inputs_and_outputs import Input as Input
from harness.tasks.inputs_and_outputs import Output as Output
from harness.tasks.inputs_and_outputs import Sizes, shape_of
from harness.tasks.kinds import (
    IGNORED,
    BinaryScores,
    ClassScores,
    CtcScores,
    LabelShape,
    Loss,
    Probabilities,
    TokenScores,
    ctc_loss,
    mean_loss,
)
from harness.tasks.loss_call import LossCall
from harness.tasks.values import Drawing, Ids, IndexOf, LengthsOf, within_groups

if TYPE_CHECKING:
    from torch import Tensor

MODEL = "model"
"""In place of a loss function: forward or the training step returns the loss."""


@dataclass(frozen=True)
class Signature:
    """Inputs, outputs, and the axes they share.

    Attributes:
        inputs: In forward's order.
        outputs: The first is the main one.
        axes: By name.
        symmetric: Inputs that may be swapped without a change.
        limits: What holds across axes.
        labels: Labels that the config declares, by name; they come before those that follow from the outputs.
        loss: The function of the whole loss, or ``model`` where forward returns it; empty where it is the outputs' own.
        loss_over: ``batch`` where the loss compares rows with each other.
        loss_call: How the function of the loss is called, where it does not take ``outputs`` and ``batch``.
        label_sources: Labels that are an input again, by name, with the input.
        groups: Inputs that are passed in an object of a class, by what their names have before the dot.
    """

    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    axes: Mapping[str, Axis]
    symmetric: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    labels: tuple[Input, ...] = ()
    loss: str = ""
    loss_over: str = ""
    loss_call: LossCall | None = None
    label_sources: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)

    @property
    def main(self) -> Output:
        """The output that is judged where one is enough."""
        return self.outputs[0]

    def with_main(self, name: str) -> Signature:
        """The same signature with another output as the main one; each stays where it is in what forward returns."""
        placed = [
            replace(each, at=int(each.name) if each.name.isdigit() else place) if each.at is None else each
            for place, each in enumerate(self.outputs)
        ]
        return replace(self, outputs=tuple(sorted(placed, key=lambda each: each.name != name)))

    def input(self, name: str) -> Input:
        """An input by name."""
        return next(each for each in self.inputs if each.name == name)

    @property
    def free_axes(self) -> tuple[Axis, ...]:
        """The axes whose size can be chosen, in the order of the inputs; those of a state last, which begin at 0."""
        used = [axis for each in self.inputs if not each.state for axis in each.axes if isinstance(axis, str)]
        grouped = [each.values.axis for each in self.inputs if isinstance(each.values, IndexOf)]
        names = dict.fromkeys([*used, *grouped])
        return tuple(self.axes[name] for name in names if self.axes[name].is_free)

    @property
    def deals_rows(self) -> bool:
        """Whether a batch consists of rows; where no input has an axis of them, as with a graph, each example is a batch."""
        return any(BATCH in each.axes for each in self.inputs) and BATCH not in self.grouping

    @property
    def has_rows(self) -> bool:
        """Whether there is an axis of rows, the main output has it, and they are independent."""
        return BATCH in self.main.axes and BATCH in self.axes and self.axes[BATCH].independent

    @property
    def whole_loss(self) -> str:
        """The function of the whole loss, or ``model``; empty where the loss is the weighted sum of those of the outputs."""
        return self.loss or (MODEL if any(isinstance(each.kind, Loss) for each in self.outputs) else "")

    @property
    def taught(self) -> tuple[Output, ...]:
        """The outputs that a loss of theirs pulls towards labels.

        A whole loss reads the labels that the config declares; where it declares none, those that follow from the outputs.
        """
        declared = self.declared_labels if self.whole_loss else frozenset[str]()
        return tuple(
            each
            for each in self.outputs
            if each.loss and each.weight and self.has_labels(each) and (not declared or self.label_name(each) in declared)
        )

    @property
    def is_trainable(self) -> bool:
        """Whether there is a loss to train by."""
        return bool(self.whole_loss or self.taught)

    @property
    def has_rows_in_loss(self) -> bool:
        """Whether rows are independent in forward and in the loss, so that a batch may be cut into smaller ones."""
        return self.has_rows and not self.loss_over and BATCH not in self.grouping

    def axes_of(self, field: str) -> tuple[Size, ...]:
        """The axes of an input or a label by its name in a batch, as declared; empty for a scalar, and for a field that is neither."""
        return self._fields.get(field, ())

    @cached_property
    def _fields(self) -> Mapping[str, tuple[Size, ...]]:
        known = {each.name: each.axes for each in (*self.inputs, *self.labels)}
        known |= {name: known.get(source, ()) for name, source in self.label_sources.items()}
        for output in self.outputs:
            following, shape = self.next_of(output), self.label_shape(output)
            axes = known[following[1]] if following is not None else (shape.axes if shape is not None else ())
            known.setdefault(self.label_name(output), axes)
        return known

    def row_count(self, batch: Mapping[str, Tensor]) -> int:
        """How many rows a batch has; 1 for a batch without an axis of rows."""
        return next((len(value) for name, value in batch.items() if BATCH in self.axes_of(name)), 1)

    def rows(self, batch: Mapping[str, Tensor], index: slice | list[int]) -> dict[str, Tensor]:
        """A batch with only some of its rows; fields without rows stay whole."""
        count = self.row_count(batch)

        def has_rows(name: str, value: Tensor) -> bool:
            if name in self._fields:
                return BATCH in self._fields[name]
            return value.ndim > 0 and len(value) == count  # a field that the signature does not know

        return {name: value[index] if has_rows(name, value) else value for name, value in batch.items()}

    @property
    def grouping(self) -> frozenset[str]:
        """Axes that group the elements of others: an input has positions along them, and none has them as an axis.

        The rows are groups wherever elements have positions along them, also beside inputs with numbers for each row, as for each graph.
        """
        held = {axis for each in self.inputs for axis in each.axes}
        positions = ((each.values.axis, each.axes) for each in self.inputs if isinstance(each.values, IndexOf))
        return frozenset(axis for axis, own in positions if axis not in held or (axis == BATCH and BATCH not in own))

    @property
    def has_examples(self) -> bool:
        """Whether the first axis of the main output, with the rows first, is one of examples: rows, or elements such as nodes."""
        axes = self.main.axes
        return bool(axes) and isinstance(axes[rows_first(axes)[0]], str)

    @property
    def visible_padding(self) -> tuple[Axis, ...]:
        """Axes along which rows may be shorter, except where a causal order hides the padding, as it comes after everything real."""
        return tuple(
            axis for axis in self.axes.values() if axis.padding and not (axis.order == "causal" and axis.padding == "right")
        )

    @property
    def grouped_axes(self) -> dict[str, Input]:
        """The axes whose elements belong to groups, each with the input that says to which: the nodes of a batch of graphs."""
        named = (each for each in self.inputs if isinstance(each.values, IndexOf) and each.values.axis in self.grouping)
        return {str(each.axes[0]): each for each in named if len(each.axes) == 1}

    def with_order(self, order: str) -> Iterator[Axis]:
        """The axes with an order: ``causal`` or ``none``."""
        return (axis for axis in self.axes.values() if axis.order == order)

    @property
    def padded(self) -> tuple[Axis, ...]:
        """The axes along which rows may be shorter than the batch."""
        return tuple(axis for axis in self.axes.values() if axis.padding)

    @property
    def states(self) -> tuple[Input, ...]:
        """The inputs that an output of an earlier call continues."""
        return tuple(each for each in self.inputs if each.state)

    def complete(self, sizes: Sizes) -> dict[str, int]:
        """The sizes with those that follow from a formula, and ``ANY_SIZE`` of an axis that is measured.

        Args:
            sizes: The free axes; one that is missing has its typical size.
        """
        # An axis that only a state has begins at 0; one that only labels have, as the objects of an image, has a usual size.
        of_labels = {axis: self.axes[axis].typical(()) for each in self.labels for axis in each.axes if isinstance(axis, str)}
        whole = {**dict.fromkeys(self.axes, 0), **of_labels, **self._typical_sizes, **sizes}
        for axis in self.axes.values():
            if isinstance(axis.source, Formula):
                whole[axis.name] = int(axis.source.value(whole))
            elif axis.source == MEASURED:
                whole[axis.name] = ANY_SIZE
        return whole

    def allows(self, sizes: Sizes) -> bool:
        """Whether every axis may have its size, and the limits across axes hold."""
        single = all(self.axes[name].allows(size) for name, size in sizes.items() if name in self.axes)
        return single and all(limit.holds(self.complete(sizes)) for limit in self.limits)

    def typical_sizes(self) -> dict[str, int]:
        """A size for each free axis, no two of them alike and none a fixed size of an input or output, as far as the axes allow."""
        return dict(self._typical_sizes)

    @cached_property
    def _typical_sizes(self) -> dict[str, int]:
        shapes = [each.axes for each in self.inputs] + [each.axes for each in self.outputs]
        taken = {size for axes in shapes for size in axes if isinstance(size, int)}
        found: dict[str, int] = {}
        for axis in self.free_axes:
            # Few rows: they are what everything else is multiplied by.
            size = 3 if axis.name == BATCH and axis.allows(3) else axis.typical(taken, formulas_of(axis, self.axes))
            kept = (near for near in axis.near(size, taken) if keep_limits(self.limits, {**found, axis.name: near}))
            found[axis.name] = next(kept, size)
            taken.add(found[axis.name])
        return found

    def smallest_sizes(self) -> dict[str, int]:
        """The smallest size of each free axis."""
        return {axis.name: axis.choices()[0] for axis in self.free_axes}

    def make_batch(self, sizes: Sizes, seed: int = 0, lengths: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Random inputs by name, and the labels: ``labels`` for the main output, ``labels.NAME`` for others, and those of the config by name.

        Args:
            sizes: Of the free axes.
            seed: The same seed gives the same batch.
            lengths: The real length of each row (int64 ``[B]``) along axes whose rows are shorter.
        """
        import torch

        rng = torch.Generator().manual_seed(seed)
        drawing = Drawing(self.complete(sizes), rng, lengths or {}, self.grouping)
        batch = {each.name: each.make(drawing) for each in self.inputs if not each.state or each.initial == "zeros"}
        for each in self.inputs:
            if isinstance(each.values, IndexOf) and each.values.axis in self.grouped_axes and each.name in batch:
                groups, of_each = batch[self.grouped_axes[each.values.axis].name], each.axes[:1] == (each.values.axis,)
                batch[each.name] = within_groups(batch[each.name], groups, rng, of_each=of_each)
        for each in self.labels:
            batch[each.name] = each.make(drawing)
        for name, source in self.label_sources.items():
            batch[name] = batch[source].clone()
        for output in self.outputs:
            made = self._labels_of(output, batch, drawing)
            if made is not None:
                batch[self.label_name(output)] = made
        return batch

    def relabelled(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A batch whose inputs were changed, with the labels that are inputs again."""
        again = {name: batch[source].clone() for name, source in self.label_sources.items() if source in batch}
        for output in self.outputs:
            following = self.next_of(output)
            if following is not None and self.label_name(output) in batch:
                again[self.label_name(output)] = batch[following[1]].clone()
        return {**batch, **again}

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels of a batch in order: those that the config declares, then those that follow from the outputs."""
        implied = [self.label_name(each) for each in self.outputs if each.loss and self.has_labels(each)]
        declared = (*(each.name for each in self.labels), *self.label_sources)
        return tuple(dict.fromkeys((*declared, *implied)))

    def label_name(self, output: Output) -> str:
        """The field of a batch that holds an output's labels."""
        if output.name in self.declared_labels:
            return output.name
        return "labels" if output is self.main and all(each.name != "labels" for each in self.inputs) else f"labels.{output.name}"

    def has_labels(self, output: Output) -> bool:
        """Whether a batch has labels for an output, in the shape that its loss needs."""
        if self.next_of(output) is not None:
            return True
        shape, declared = self.label_shape(output), self.label_name(output) in self.declared_labels
        if shape is None:
            return declared and ":" in output.loss
        known = all(isinstance(size, int) or self.axes[size].source != MEASURED for size in shape.axes)
        return known and (not declared or self.axes_of(self.label_name(output)) == shape.axes)

    def sizes_of(self, batch: Mapping[str, Tensor]) -> dict[str, int]:
        """The size of every axis in a batch."""
        found: dict[str, int] = {}
        for name, value in batch.items():
            axes = self.axes_of(name)
            if len(axes) == value.ndim:
                sizes = zip((axes[place] for place in rows_first(axes)), value.shape, strict=True)
                found |= {axis: size for axis, size in sizes if isinstance(axis, str)}
        return self.complete({name: size for name, size in found.items() if self.axes[name].is_free})

    def label_shape(self, output: Output) -> LabelShape | None:
        """What the labels of an output look like, where they follow from it."""
        return output.kind.labels(output.axes)

    def next_of(self, output: Output) -> tuple[str, str] | None:
        """Of scores of next tokens: the causal axis, and the input whose tokens come next; ``None`` where labels are declared, or for others."""
        if not isinstance(output.kind, TokenScores) or self.label_name(output) in self.declared_labels:
            return None
        for axis in output.axes:
            if isinstance(axis, str) and self.axes[axis].order == "causal":
                read = (each.name for each in self.inputs if axis in each.axes and isinstance(each.values, Ids))
                return next(((axis, name) for name in read), None)
        return None

    def has_hidden_labels(self, output: Output) -> bool:
        """Whether an output scores the tokens of an input that were hidden from it, as in masked language models."""
        own = isinstance(output.kind, TokenScores) and self.label_name(output) not in self.declared_labels
        return own and self.next_of(output) is None

    @property
    def has_inputs_as_labels(self) -> bool:
        """Whether there is no label that is not an input again."""
        labelled = [each for each in self.outputs if each.loss and self.label_name(each) not in self.label_sources]
        own = [each for each in labelled if self.label_shape(each) is not None]
        return not self.labels and all(self.next_of(each) or self.has_hidden_labels(each) for each in own)

    @property
    def has_one_answer(self) -> bool:
        """Whether the main output gives each row one class: by scores of classes, or by a yes or no."""
        rest = [self.main.axes[place] for place in rows_first(self.main.axes)]
        if self.main.classes is not None:
            del rest[self.main.classes]
        return rest == [BATCH] and isinstance(self.main.kind, (ClassScores, BinaryScores, Probabilities))

    def loss_of(self, output: Output, value: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean loss of one output (a scalar) against its labels in a batch."""
        labels = batch[self.label_name(output)]
        if isinstance(output.kind, CtcScores):
            return ctc_loss(output.in_steps(value), labels, self.frames(output, value, batch), output.kind.blank)
        following = self.next_of(output)
        if following is not None:
            along = [output.axes[place] for place in rows_first(output.axes)].index(following[0])
            length = value.shape[along]
            value, labels = value.narrow(along, 0, length - 1), labels.narrow(along, 1, length - 1)
        return mean_loss(output.loss, value, labels, output.classes if output.classes is not None else -1)

    def label_count(self, output: Output, batch: Mapping[str, Tensor]) -> Tensor:
        """How many labels the loss of an output is the mean of (a scalar, int64)."""
        labels = batch[self.label_name(output)]
        if isinstance(output.kind, CtcScores):
            labels = labels[:, 0]  # a loss each row, whatever it says
        following = self.next_of(output)
        if following is not None:
            along = [output.axes[place] for place in rows_first(output.axes)].index(following[0])
            labels = labels.narrow(along, 1, labels.shape[along] - 1)
        return (labels != IGNORED).sum()

    def frames(self, output: Output, value: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """How many real steps of an output along time each row has (int64 ``[B]``)."""
        import torch

        symbols = getattr(output.kind, "symbols", -1) % len(output.axes)
        along = next((axis for place, axis in enumerate(output.axes) if axis != BATCH and place != symbols), None)
        source = self.axes[along].source if isinstance(along, str) else None
        lengths = {each.values.axis: batch[each.name] for each in self.inputs if isinstance(each.values, LengthsOf)}
        if along in lengths:
            return lengths[along]
        if isinstance(source, Formula) and set(source.axes) <= set(lengths):
            return source.value(lengths)  # type: ignore[no-any-return]
        return torch.full((len(value),), output.in_steps(value).shape[1], device=value.device)

    @property
    def declared_labels(self) -> frozenset[str]:
        """The labels that the config names; others follow from the outputs."""
        return frozenset((*(each.name for each in self.labels), *self.label_sources))

    def _labels_of(self, output: Output, batch: Mapping[str, Tensor], drawing: Drawing) -> Tensor | None:
        if self.label_name(output) in batch or not output.loss:
            return None
        following = self.next_of(output)
        if following is not None:
            return batch[following[1]].clone()
        shape = self.label_shape(output)
        if shape is None:
            return None
        sizes = shape_of(shape.axes, drawing.sizes)
        # How many labels there are is not known before the model was called.
        return None if ANY_SIZE in sizes else output.drawn_from(shape).make(sizes, drawing)
