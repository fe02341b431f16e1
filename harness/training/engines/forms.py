"""The form in which a user's own training step takes its batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from harness.adapters import Adapter
from harness.batches import Batch
from harness.errors import UserError
from harness.training.engines.job import Batches
from harness.training.errors import TrainingError
from harness.user_code import raised

Form = Callable[[Batch], Any]
"""From a batch to what ``training_step`` takes."""


def as_dict(batch: Batch) -> Batch:
    """The fields by name."""
    return batch


@dataclass(frozen=True)
class AsTuple:
    """The fields that ``forward`` takes, in its order, and the labels: ``x, y = batch``.

    Attributes:
        fields: The fields.
    """

    fields: tuple[str, ...]

    def __call__(self, batch: Batch) -> tuple[Tensor, ...]:
        """The tensors."""
        return tuple(batch[name] for name in (*self.fields, "labels"))


def find_form(model: nn.Module, adapter: Adapter, take_step: Callable[[Form], object]) -> Form:
    """The first form of batch that a training step takes: a dict, then a tuple.

    Args:
        model: The LightningModule.
        adapter: Knows the fields that its ``forward`` takes.
        take_step: Tries a step on a copy of the model.

    Raises:
        TrainingError: It takes neither.
    """
    reasons = []
    for form, shown in _forms(model, adapter):
        try:
            take_step(form)
        except UserError:
            return form  # it ran, and what it found is not the form's fault
        except Exception as error:
            reasons.append(f"{raised(error)} on {shown}")
        else:
            return form
    raise TrainingError(f"{type(model).__name__}.training_step raised {'; and '.join(reasons)}")


def _forms(model: nn.Module, adapter: Adapter) -> Iterator[tuple[Form, str]]:
    yield as_dict, "a dict of the task's fields and `labels`"
    plan = adapter.plan(model)
    if not plan.whole:
        fields = AsTuple(plan.fields)
        yield fields, f"a tuple ({', '.join((*plan.fields, 'labels'))})"


class Formed:
    """Batches in another form."""

    def __init__(self, batches: Batches, form: Form) -> None:
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
        """Goes on from there."""
        self._batches.load_state_dict(state)

    @property
    def batch_sampler(self) -> Any:
        """Where Lightning looks for something to tell the epoch to."""
        return getattr(self._batches, "batch_sampler", None)
