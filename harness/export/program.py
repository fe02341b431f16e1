"""What is exported: a model as a function from named tensors to logits, an example, and the axes that stay free."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from harness.adapters import Adapter
from harness.batches import Batch, Sizes, pad_right
from harness.models.wrapped import without_fast_path
from harness.properties.subject import Subject
from harness.tasks import TaskSpec

Runner = Callable[[Batch], Tensor]
"""An artifact that was loaded: from a batch to logits."""

LARGEST_BATCH = 1 << 16
"""Rows that a free batch axis is declared for."""

AXES = ("batch", "seq", "target_seq")
"""Axes that may be free."""

_WRAPPER = "model"


class LogitsOf(nn.Module):
    """A model whose inputs are tensors by position and whose output is its logits, which is what every exporter can take.

    Attributes:
        model: The model, in eval mode.
        adapter: How it is called.
        fields: Names of the inputs, in order.
    """

    def __init__(self, model: nn.Module, adapter: Adapter, fields: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.adapter = adapter
        self.fields = fields
        self.eval()

    def forward(self, *tensors: Tensor) -> Tensor:
        """The logits of a batch whose fields are given in order."""
        return self.adapter.logits(self.model, dict(zip(self.fields, tensors, strict=True)))


@dataclass(frozen=True)
class Program:
    """A model ready for an exporter.

    Attributes:
        forward: The model as a function of tensors, on the CPU, in eval mode.
        task: What it is for.
        sizes: Sizes of the example.
        example: The batch shown to exporters that trace; holds the model's fields alone.
        axes: Names of each field's free axes by position, such as ``{"input_ids": {0: "batch", 1: "seq"}}``.
        limits: Smallest and largest size of each free axis.
        samples: Further batches of the same sizes, for formats that are calibrated.
    """

    forward: LogitsOf
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
    def eager(self, batch: Batch) -> Tensor:
        """Logits of the model itself, by the path that is exported: the fast one puts zeros where nobody looks, at padding."""
        with without_fast_path():
            return self.forward(*self.ordered(batch)).detach()

    @property
    def output_axes(self) -> dict[int, str]:
        """Names of the free axes of the logits by position."""
        free = {name for axes in self.axes.values() for name in axes.values()}
        return {position: name for position, name in enumerate(self.task.facts.output) if name in free}


def program_of(subject: Subject, dynamic: bool | Mapping[Any, bool | list[int]] = True) -> Program:
    """A subject's model as exporters take it: a copy that was never called, on the CPU, with an example of its own.

    Args:
        subject: The model.
        dynamic: Which axes stay free; see ``free_axes``.
    """
    free = free_axes(subject.task, dynamic)
    sizes = example_sizes(subject, free)
    program = make_program(subject.fresh().cpu(), subject.adapter, subject.task, subject.batch(sizes), sizes, free)
    if "attention_mask" in program.fields and sizes.batch > 1 and sizes.seq > 1:
        # An example with padding keeps models from leaving the mask out because nothing is masked.
        padded = pad_rows(subject, subject.batch(sizes), sizes)
        program.example.update({name: padded[name] for name in program.fields})
    return program


def example_sizes(subject: Subject, free: Mapping[str, tuple[int, int]]) -> Sizes:
    """Sizes of the example: such that a free axis is told from the others by its length, a fixed one as it will be served."""
    longest = subject.task.max_seq_len or 1
    typical = subject.typical
    seq = typical.seq if "seq" in free else longest
    target = typical.target_seq if "target_seq" in free else longest
    batch = 1 if "batch" not in free else next(size for size in (3, 4, 5) if size not in (seq, target))
    limit = free.get("batch")
    return Sizes(batch if limit is None else max(limit[0], min(batch, limit[1])), seq, target)


def pad_rows(subject: Subject, batch: Batch, sizes: Sizes) -> Batch:
    """The batch with every second row padded on the right, and the first one whole."""
    lengths = [sizes.seq if row % 2 == 0 else max(1, sizes.seq // 2) for row in range(sizes.batch)]
    on_cpu = {name: tensor.cpu() for name, tensor in batch.items()}
    return pad_right(subject.task, on_cpu, lengths, sizes.seq)


def make_program(
    model: nn.Module,
    adapter: Adapter,
    task: TaskSpec,
    batch: Batch,
    sizes: Sizes,
    free: Mapping[str, tuple[int, int]] | None = None,
) -> Program:
    """The program of a model.

    Args:
        model: The model, on the CPU; put into eval mode.
        adapter: How it is called.
        task: What it is for.
        batch: An example at ``sizes``.
        sizes: Its sizes.
        free: Smallest and largest size of each axis that shall stay free; by default all of ``free_axes``.
    """
    free = free_axes(task) if free is None else free
    fields = input_fields(model, adapter, task)
    axes = {name: {p: axis for p, axis in enumerate(_axes_of(name)) if axis in free} for name in fields}
    used = {axis for named in axes.values() for axis in named.values()}
    limits = {axis: free[axis] for axis in AXES if axis in used}
    return Program(LogitsOf(model, adapter, fields), task, sizes, {name: batch[name].cpu() for name in fields}, axes, limits)


def free_axes(task: TaskSpec, wanted: bool | Mapping[Any, bool | list[int]] = True) -> dict[str, tuple[int, int]]:
    """The axes that stay free in an export, each with its smallest and largest size.

    Args:
        task: What the model is for.
        wanted: All of them or none; or for some axes whether they stay free, or their limits.
    """
    longest = task.max_seq_len or 1
    known = {"batch": (1, LARGEST_BATCH)}
    if task.is_text:
        known["seq"] = (task.min_seq_len, longest)
    if task.is_seq2seq:
        known["target_seq"] = (1, longest)
    chosen = dict.fromkeys(known, wanted) if isinstance(wanted, bool) else {**dict.fromkeys(known, True), **wanted}
    free: dict[str, tuple[int, int]] = {}
    for axis, limits in known.items():
        choice = chosen[axis]
        low, high = limits if isinstance(choice, bool) else (choice[0], choice[1])
        # An axis of a single size has nothing free about it, and torch.export refuses to call it so.
        if choice is not False and high >= 2 and high > low:
            free[axis] = (low, high)
    return free


def input_fields(model: nn.Module, adapter: Any, task: TaskSpec) -> tuple[str, ...]:
    """The fields that reach a model, in order; all of the task's where the adapter has a way of its own to call it."""
    try:
        plan = adapter.plan(model)
    except AttributeError:
        return task.facts.inputs
    return task.facts.inputs if plan.whole else plan.fields


def module_path(name: str) -> str:
    """A module's path inside the user's model, from its path inside the exported function; ``(model)`` for the model itself."""
    return "(model)" if name in ("", _WRAPPER) else name.removeprefix(f"{_WRAPPER}.")


def _axes_of(name: str) -> tuple[str, ...]:
    if name == "decoder_input_ids":
        return ("batch", "target_seq")
    if name in ("input_ids", "attention_mask"):
        return ("batch", "seq")
    return ("batch",)
