"""What is exported: a model as a function from named tensors to its outputs, an example, and the axes that stay free."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from harness.adapters import Adapter, SignatureAdapter
from harness.batches import Batch, Sizes
from harness.models.wrapped import without_fast_path
from harness.properties.padding import padded, placed
from harness.properties.subject import Subject
from harness.runtime import seeded
from harness.tasks import TaskSpec
from harness.tasks.axes import BATCH, MEASURED, Axis, Formula, rows_first
from harness.tasks.calls import batch_as_declared
from harness.tasks.signature import Input, Output, Signature
from harness.tasks.values import Ids, LengthsOf, MaskOf

Outputs = dict[str, Tensor]
"""What a model returns, by name."""

Runner = Callable[[Batch], Any]
"""An artifact that was loaded: from a batch to a tensor, or to several, by name or in the order of the program's outputs."""

UNLIMITED = 1 << 16
"""The largest size that a free axis without an upper limit is declared for."""

LOGITS = "logits"
"""Name of the output of a model that is called by an adapter without a signature."""

_WRAPPER = "model"


class OutputsOf(nn.Module):
    """A model whose inputs are tensors by position and whose outputs are tensors in order, which is what every exporter can take.

    Attributes:
        model: The model, in eval mode.
        adapter: How it is called.
        fields: Names of the inputs, in order.
        outputs: Names of the outputs, in order.
    """

    def __init__(self, model: nn.Module, adapter: Adapter, fields: tuple[str, ...], outputs: tuple[str, ...] = (LOGITS,)) -> None:
        super().__init__()
        self.model = model
        self.adapter = adapter
        self.fields = fields
        self.outputs = outputs
        self.eval()

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The outputs for a batch whose fields are given in order; of a single output the tensor itself."""
        found = returned_tensors(self.adapter, self.model, dict(zip(self.fields, tensors, strict=True)))
        if len(self.outputs) == 1:
            return found[self.outputs[0]]
        return tuple(found[name] for name in self.outputs)

    def by_name(self, batch: Batch) -> Outputs:
        """The outputs for a batch."""
        found = self(*(batch[name] for name in self.fields))
        return dict(zip(self.outputs, found if isinstance(found, tuple) else (found,), strict=True))


@dataclass(frozen=True)
class Program:
    """A model ready for an exporter.

    Attributes:
        forward: The model as a function of tensors, on the CPU, in eval mode.
        task: What it is for.
        sizes: Sizes of the example.
        example: The batch shown to exporters that trace; holds only the model's fields, their axes in forward's order.
        axes: Names of each field's free axes by position, such as ``{"input_ids": {0: "batch", 1: "seq"}}``.
        limits: Smallest and largest size of each free axis.
        samples: Further batches of the same sizes, for formats that are calibrated.
    """

    forward: OutputsOf
    task: TaskSpec
    sizes: Sizes
    example: Batch
    axes: dict[str, dict[int, str]]
    limits: dict[str, tuple[int, int]] = field(default_factory=dict)
    samples: tuple[Batch, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return self.forward.fields

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return self.forward.outputs

    @property
    def returns(self) -> str:
        """What it returns, for messages."""
        return LOGITS if self.outputs == (LOGITS,) else "outputs"

    @property
    def arguments(self) -> tuple[Tensor, ...]:
        """The example, in order."""
        return self.ordered(self.example)

    @property
    def weight_bytes(self) -> int:
        """Bytes of everything in the state dict."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.forward.state_dict().values())

    def ordered(self, batch: Batch) -> tuple[Tensor, ...]:
        """The tensors of a batch that the model takes, in order."""
        return tuple(batch[name] for name in self.fields)

    @torch.no_grad()
    def eager_outputs(self, batch: Batch) -> Outputs:
        """Outputs of the model itself, by the path that is exported: the fast one puts zeros where nobody looks, at padding."""
        with without_fast_path():
            return {name: tensor.detach() for name, tensor in self.forward.by_name(batch).items()}

    def eager(self, batch: Batch) -> Tensor:
        """The first output of the model itself; see ``eager_outputs``."""
        return self.eager_outputs(batch)[self.outputs[0]]

    def only(self, output: str) -> Program:
        """The program with one of its outputs."""
        return replace(self, forward=OutputsOf(self.forward.model, self.forward.adapter, self.fields, (output,)))

    def step(self, axis: str) -> int:
        """What all sizes of a free axis are multiples of."""
        return _step(self.task.signature.axes[axis])

    def sizes_tried(self, axis: str) -> tuple[int, int]:
        """Smallest and largest size of a free axis that is tried: of one without an upper limit, the largest that is usual."""
        low, high = self.limits[axis]
        return low, high if high < UNLIMITED or axis == BATCH else max(low, self.task.signature.axes[axis].choices()[-1])

    @property
    def output_axes(self) -> dict[str, dict[int, str]]:
        """Names of each output's free axes by position."""
        promised = promised_outputs(self)
        return {name: {p: axis for p, axis in _named_axes(promised.get(name)) if self._is_free(axis)} for name in self.outputs}

    def _is_free(self, axis: str) -> bool:
        source = self.task.signature.axes[axis].source
        if isinstance(source, Formula):
            return not self.limits.keys().isdisjoint(source.axes)
        return bool(self.limits) if source == MEASURED else axis in self.limits


def program_of(subject: Subject, dynamic: bool | Mapping[Any, bool | list[int]] = True) -> Program:
    """A subject's model as exporters take it: a copy that was never called, on the CPU, with its own example.

    Args:
        subject: The model.
        dynamic: Which axes stay free; see ``free_axes``.
    """
    free = free_axes(subject.task, dynamic)
    sizes = example_sizes(subject, free)
    batch = subject.batch(sizes)
    if has_shorter_rows(subject.task, input_fields(subject.model, subject.adapter, subject.task)):
        # An example with padding keeps models from leaving the mask out because nothing is masked.
        batch = shorten_rows(subject.task, batch, sizes)
    outputs = _found_outputs(subject, batch)
    return make_program(subject.fresh().cpu(), subject.adapter, subject.task, batch, sizes, free, outputs)


def has_shorter_rows(task: TaskSpec, fields: Container[str]) -> bool:
    """Whether rows may be shorter than there is room for, and one of some fields tells."""
    return any(each.name in fields for each in _shorter_axes(task.signature).values())


def shorten_rows(task: TaskSpec, batch: Batch, sizes: Sizes) -> Batch:
    """The batch on the CPU, with the first half of its rows whole and the others half as long."""
    signature = task.signature
    whole = signature.complete(sizes.by_axis(task))
    rows = whole.get(BATCH, 1)
    shortened = {name: tensor.cpu() for name, tensor in batch.items()}
    for axis in map(signature.axes.get, _shorter_axes(signature)):
        assert axis is not None
        total = whole[axis.name]
        short = min(max(axis.least, 1, total // 2), total)
        lengths = [total if 2 * row < rows else short for row in range(rows)]
        real = placed("left" if axis.padding == "left" else "right", lengths, total)
        shortened = padded(signature, shortened, axis.name, real)
    return shortened


def _shorter_axes(signature: Signature) -> dict[str, Input]:
    """Axes along which rows may be shorter, each with the input that tells where a row ends."""
    told: dict[str, Input] = {}
    for each in signature.inputs:
        if isinstance(each.values, (LengthsOf, MaskOf)):
            told.setdefault(each.values.axis, each)
    for each in signature.inputs:
        axes = [axis for axis in each.axes if isinstance(axis, str) and signature.axes[axis].padding]
        if isinstance(each.values, Ids) and each.values.pad is not None and BATCH in each.axes:
            told |= {axis: each for axis in axes if axis not in told}
    return told


def make_program(
    model: nn.Module,
    adapter: Adapter,
    task: TaskSpec,
    batch: Batch,
    sizes: Sizes,
    free: Mapping[str, tuple[int, int]] | None = None,
    outputs: tuple[str, ...] = (LOGITS,),
) -> Program:
    """The program of a model.

    Args:
        model: The model, on the CPU; put into eval mode.
        adapter: How it is called.
        task: What it is for.
        batch: An example at ``sizes``, the rows first.
        sizes: Its sizes.
        free: Smallest and largest size of each axis that shall stay free; by default all of ``free_axes``.
        outputs: Names of the outputs.
    """
    free = free_axes(task) if free is None else free
    fields = input_fields(model, adapter, task)
    example = as_exported(adapter, {name: batch[name].cpu() for name in fields})
    signature = task.signature
    axes = {
        name: {p: axis for p, axis in enumerate(_axes_in_file(adapter, signature.input(name))) if axis in free} for name in fields
    }
    used = {axis for named in axes.values() for axis in named.values()}
    limits = {axis: free[axis] for axis in free if axis in used}
    return Program(OutputsOf(model, adapter, fields, outputs), task, sizes, example, axes, limits)


def as_exported(adapter: Adapter, batch: Batch) -> Batch:
    """A batch, whose rows are first, as a file takes it: with the rows where the declared signature has them."""
    return batch_as_declared(batch, adapter.task.signature) if isinstance(adapter, SignatureAdapter) else batch


def returned_tensors(adapter: Adapter, model: nn.Module, batch: Batch) -> Outputs:
    """Every tensor that a model returns for a batch as a file takes it, by name; those inside an output with its place after a dot."""
    if not isinstance(adapter, SignatureAdapter):
        return {LOGITS: adapter.logits(model, batch)}
    returned = adapter.returned(model, batch)
    # An output may have an input's name, and no file can have both.
    return {
        f"{name}_out" if name in batch else name: tensor
        for output, value in returned.items()
        for name, tensor in _tensors_in(output, value)
    }


def promised_outputs(program: Program) -> dict[str, Output]:
    """What the signature says of each output of a program that is a declared output itself, and no part of one."""
    signature = program.task.signature
    if not isinstance(program.forward.adapter, SignatureAdapter):
        return {program.outputs[0]: signature.main}
    as_returned = [replace(each, axes=each.returned_axes) for each in signature.outputs]
    named = {f"{each.name}_out" if each.name in program.fields else each.name: each for each in as_returned}
    return {name: named[name] for name in program.outputs if name in named}


def _tensors_in(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _tensors_in(f"{name}.{key}", inner)
    elif isinstance(value, (tuple, list)):
        for place, inner in enumerate(value):
            yield from _tensors_in(f"{name}.{place}", inner)


def _found_outputs(subject: Subject, batch: Batch) -> tuple[str, ...]:
    """Names of the tensors that a model returns, from a call of a copy; those that are declared where it raises."""
    if not isinstance(subject.adapter, SignatureAdapter):
        return (LOGITS,)
    model = subject.fresh().cpu()
    # Without the labels: an output with the name of a label keeps its own.
    fields = input_fields(model, subject.adapter, subject.task)
    given = as_exported(subject.adapter, {name: batch[name].cpu() for name in fields})
    try:
        with seeded(0), torch.no_grad():
            return tuple(returned_tensors(subject.adapter, model, given))
    except Exception:  # every check that calls the model says what it raises
        return tuple(each.name for each in subject.task.signature.outputs)


def example_sizes(subject: Subject, free: Mapping[str, tuple[int, int]]) -> Sizes:
    """Sizes of the example: such that a free axis is told from the others by its length, a fixed one as it will be served."""
    signature = subject.task.signature
    sizes = {axis.name: size for axis in signature.free_axes if (size := subject.typical.by_axis(subject.task).get(axis.name))}
    for axis in signature.free_axes:
        if axis.name in free:
            sizes[axis.name] = _nearest(axis, sizes[axis.name], free[axis.name])
        elif axis.name == BATCH:
            sizes[BATCH] = axis.choices()[0]
        elif axis.most is not None or axis.sizes:
            sizes[axis.name] = axis.choices()[-1]
    if BATCH in free:
        others = {size for name, size in sizes.items() if name != BATCH}
        rows = next(size for size in range(3, 4 + len(others)) if size not in others)
        sizes[BATCH] = _nearest(signature.axes[BATCH], rows, free[BATCH])
    return Sizes.for_task(subject.task, sizes)


def free_axes(task: TaskSpec, wanted: bool | Mapping[Any, bool | list[int]] = True) -> dict[str, tuple[int, int]]:
    """The axes that stay free in an export, each with its smallest and largest size.

    Args:
        task: What the model is for.
        wanted: All of them or none; or for some axes whether they stay free, or their limits.
    """
    free: dict[str, tuple[int, int]] = {}
    for axis in task.signature.free_axes:
        choice = wanted if isinstance(wanted, bool) else wanted.get(axis.name, True)
        low, high = _limits_of(axis) if isinstance(choice, bool) else (choice[0], choice[1])
        step = _step(axis)
        low, high = -(-low // step) * step, high // step * step
        # An axis of a single size has nothing free about it, and torch.export refuses to call it so.
        if choice is not False and high >= 2 and high > low:
            free[axis.name] = (low, high)
    return free


def _limits_of(axis: Axis) -> tuple[int, int]:
    choices = axis.choices()
    return max(1, choices[0]), UNLIMITED if axis.most is None and not axis.sizes else choices[-1]


def _step(axis: Axis) -> int:
    """What all sizes of an axis are multiples of."""
    return math.gcd(*axis.sizes) if axis.sizes else axis.multiple_of


def _nearest(axis: Axis, size: int, limits: tuple[int, int]) -> int:
    """A size within limits, and as near to another one as the axis allows."""
    low, high = limits
    size = max(low, min(size, high))
    allowed = [each for each in axis.choices() if low <= each <= high]
    return size if axis.allows(size) or not allowed else min(allowed, key=lambda each: abs(each - size))


def input_fields(model: nn.Module, adapter: Any, task: TaskSpec) -> tuple[str, ...]:
    """The fields that reach a model, in order; all of the task's where the adapter has its own way to call it.

    A state is one of them where the first call is given zeros for it; one that the first call leaves out is left out here too.
    """
    names = tuple(each.name for each in task.signature.inputs if not each.state or each.initial == "zeros")
    try:
        plan = adapter.plan(model)
    except AttributeError:
        return names
    arguments = dict.fromkeys((*plan.positional, *plan.named))
    return names if plan.whole else tuple(name for taken in arguments for name in names if name.partition(".")[0] == taken)


def module_path(name: str) -> str:
    """A module's path inside the user's model, from its path inside the exported function; ``(model)`` for the model itself."""
    return "(model)" if name in ("", _WRAPPER) else name.removeprefix(f"{_WRAPPER}.")


def _axes_in_file(adapter: Adapter, each: Input) -> tuple[Any, ...]:
    """The axes of an input in the order in which a file has them."""
    return each.axes if isinstance(adapter, SignatureAdapter) else tuple(each.axes[place] for place in rows_first(each.axes))


def _named_axes(output: Output | None) -> Iterator[tuple[int, str]]:
    """The axes of an output that have a name, by position."""
    yield from ((p, axis) for p, axis in enumerate(output.axes if output else ()) if isinstance(axis, str))
