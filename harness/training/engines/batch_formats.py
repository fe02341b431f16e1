"""Batches as a training step takes them: their format, and fixed or drawn sequences of them."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, Literal

from torch import Tensor, nn

from harness.adapters import Adapter
from harness.batches import Batch
from harness.data.loader import Loader
from harness.errors import TrainingError, UserError
from harness.tasks import TaskSpec
from harness.tasks.axes import BATCH
from harness.tasks.calls import batch_as_declared
from harness.tasks.signature import Signature
from harness.training.engines import Batches
from harness.user_code import raised
from harness.wording import listed

_AFTER = re.compile(r"_end$|_after_backward$|optimizer_step$|optimizer_zero_grad$|gradient_clipping$")
"""Names of Lightning's hooks that follow a training step."""

BatchFormat = Callable[[Batch], Any]
"""From a batch to what ``training_step`` takes."""


def as_dict(batch: Batch) -> Batch:
    """The fields by name."""
    return batch


@dataclass(frozen=True)
class AsTuple:
    """The fields that ``forward`` takes, in its order, and the labels: ``x, y = batch``."""

    fields: tuple[str, ...]

    def __call__(self, batch: Batch) -> tuple[Tensor, ...]:
        """The tensors."""
        return tuple(batch[name] for name in (*self.fields, "labels"))


@dataclass(frozen=True)
class Declared:
    """Declared tensors with their axes in the declared order: by name, in a tuple, or one by itself.

    Attributes:
        signature: Where they are declared.
        names: Which, in order.
        form: How they are given.
    """

    signature: Signature
    names: tuple[str, ...]
    form: Literal["dict", "tuple", "alone"] = "tuple"

    def __call__(self, batch: Batch) -> Any:
        """The tensors."""
        laid_out = batch_as_declared(batch, self.signature)
        if self.form == "dict":
            return laid_out
        return tuple(laid_out[name] for name in self.names) if self.form == "tuple" else laid_out[self.names[0]]

    def __str__(self) -> str:
        """As messages call it."""
        if self.form == "alone":
            return f"`{self.names[0]}` by itself"
        return f"a dict of {listed(self.names, len(self.names))}" if self.form == "dict" else f"a tuple ({', '.join(self.names)})"


def _declared_forms(signature: Signature) -> Iterator[Declared]:
    """With all labels, with those only that the config declares, and without labels, or inputs: a GAN draws what its forward takes."""
    inputs = tuple(each.name for each in signature.inputs if not each.state)
    labels, declared = signature.label_names, tuple(name for name in signature.label_names if name in signature.declared_labels)
    yield Declared(signature, (*inputs, *labels), "dict")
    yield Declared(signature, (*inputs, *labels))
    if declared and declared != labels:
        yield Declared(signature, (*inputs, *declared))
    if wanted := declared or labels:
        yield Declared(signature, wanted)
    for alone in (inputs, wanted):  # last: a step that unpacks a tuple would take a tensor of as many rows, too
        if len(alone) == 1:
            yield Declared(signature, alone, "alone")


def rows_of(task: TaskSpec, batch: Any) -> int:
    """How many rows a batch has in whatever form a training step takes."""
    if task.declared is None:
        return _length(batch)
    if not isinstance(batch, Mapping):
        parts = [batch] if isinstance(batch, Tensor) else list(batch)
        forms = [form.names for form in _declared_forms(task.declared)]
        names = next((names for names in forms if len(names) == len(parts)), forms[0])
        batch = dict(zip(names, parts, strict=False))
    for name, value in batch.items():
        axes = task.declared.axes_of(name)
        if BATCH in axes and isinstance(value, Tensor):
            return value.shape[axes.index(BATCH)]
    return 1


def _length(batch: Any) -> int:
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 1
    if isinstance(batch, Mapping):
        return next((_length(value) for value in batch.values()), 0)
    return _length(batch[0]) if isinstance(batch, (list, tuple)) and batch else 0


def find_batch_format(model: nn.Module, adapter: Adapter, take_step: Callable[[BatchFormat], object]) -> BatchFormat:
    """The first form of batch that a training step takes: a dict, then a tuple.

    Args:
        model: The LightningModule.
        adapter: Knows the fields that its ``forward`` takes.
        take_step: Tries a step on a copy of the model.

    Raises:
        TrainingError: It takes neither.
    """
    refused = list[tuple[tuple[int, int], Exception, str]]()
    for form, shown in _forms(model, adapter):
        try:
            take_step(form)
        except UserError:
            return form  # it ran, and what it found is not the form's fault
        except Exception as error:
            refused.append((_reached(error), error, shown))
        else:
            return form
    furthest = max(reached for reached, _, _ in refused)
    told = [(error, shown) for reached, error, shown in refused if reached == furthest]
    told = told[:1] if len({raised(error) for error, _ in told}) == 1 else told
    reasons = "; and ".join(f"{raised(error)} on {shown}" for error, shown in told)
    raise TrainingError(f"{type(model).__name__}.training_step raised {reasons}") from told[0][0]


def _reached(error: Exception) -> tuple[int, int]:
    """How far a training step came before it raised: its line, and how deep the calls from there went; zeros where it did not begin.

    Furthest of all is what raised after it, in a hook that follows.
    """
    frames = traceback.extract_tb(error.__traceback__)
    place = next((place for place, frame in reversed(list(enumerate(frames))) if frame.name == "training_step"), None)
    if place is None:
        return (sys.maxsize if any(_AFTER.search(frame.name) for frame in frames) else 0, 0)
    return frames[place].lineno or 0, len(frames) - place


def _forms(model: nn.Module, adapter: Adapter) -> Iterator[tuple[BatchFormat, str]]:
    if adapter.task.declared is not None:
        yield from ((form, str(form)) for form in _declared_forms(adapter.task.declared))
        return
    yield as_dict, "a dict of the task's fields and `labels`"
    plan = adapter.plan(model)
    if not plan.whole:
        fields = AsTuple(plan.fields)
        yield fields, f"a tuple ({', '.join((*plan.fields, 'labels'))})"


class FormattedBatches:
    """Batches in another form."""

    def __init__(self, batches: Batches, form: BatchFormat) -> None:
        self._batches = batches
        self._form = form

    def __iter__(self) -> Iterator[Any]:
        return map(self._form, self._batches)

    def __len__(self) -> int:
        return len(self._batches)

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next iteration goes through."""
        self._batches.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """How far they got."""
        return self._batches.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from there."""
        self._batches.load_state_dict(state)

    @property
    def batch_sampler(self) -> Any:
        """Where Lightning looks for something to tell the epoch to."""
        return getattr(self._batches, "batch_sampler", None)


class FixedBatches:
    """A sequence of batches as an epoch; a position in it can be saved.

    Args:
        batches: The batches; each is taken when its turn comes.
        form: What is made of each.
    """

    def __init__(self, batches: Sequence[Any], form: BatchFormat = as_dict) -> None:
        self._batches = batches
        self._form = form
        self._given = 0
        self._start = 0

    def __iter__(self) -> Iterator[Any]:
        self._given, self._start = self._start, 0
        for number in range(self._given, len(self._batches)):
            self._given += 1
            yield self._form(self._batches[number])

    def __len__(self) -> int:
        return len(self._batches)

    def set_epoch(self, epoch: int) -> None:
        """Every epoch is the same."""

    def state_dict(self) -> dict[str, Any]:
        """How many were given out."""
        return {"batch": self._given}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from there."""
        self._start = self._given = state["batch"]


class DrawnBatches(Sequence[Batch]):
    """The batches of a loader, epoch after epoch, each drawn when it is first asked for.

    Args:
        loader: Where they come from.
        length: How many there are to be.

    Attributes:
        seen: Those that were drawn.
    """

    def __init__(self, loader: Loader, length: int) -> None:
        self.seen: list[Batch] = []
        self._length = length
        self._source = self._epochs(loader)

    def __len__(self) -> int:
        """How many there are."""
        return self._length

    def __getitem__(self, index: Any) -> Any:
        """One of them, or several for a slice."""
        if isinstance(index, slice):
            return [self[number] for number in range(self._length)[index]]
        number = range(self._length)[index]
        self.seen += islice(self._source, max(0, number + 1 - len(self.seen)))
        return self.seen[number]

    @staticmethod
    def _epochs(loader: Loader) -> Iterator[Batch]:
        for epoch in count():
            loader.set_epoch(epoch)
            yield from loader
