"""The loss of an optimizer step: the mean over all of its labels, however its rows are dealt out to batches and processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from harness.adapters import Adapter, SignatureAdapter
from harness.batches import Batch
from harness.compat import scale_in_place
from harness.properties.subject import Subject
from harness.runtime import seeded
from harness.tasks import TaskSpec
from harness.tasks.teaching import without_labels


@dataclass(frozen=True)
class Total:
    """What went into an optimizer step.

    Attributes:
        loss: Mean over its labels, a scalar.
        examples: Its rows.
    """

    loss: Tensor
    examples: int


class Objective:
    """Makes accumulated and distributed steps equal to the one large batch.

    The mean of the batches' means is not the mean over all labels where batches hold unequal numbers of them, as padded texts do: a short
    text's tokens would count for more. So each batch's loss is weighted with its labels, and the gradients are divided by their sum before
    the step.

    Args:
        adapter: How the model is called, and its loss.
        task: What it is for.
        accumulate: Batches an optimizer step.
        world_size: Processes that train together.
        all_reduce: Sums a tensor over them, in place.
    """

    def __init__(
        self,
        adapter: Adapter,
        task: TaskSpec,
        accumulate: int = 1,
        world_size: int = 1,
        all_reduce: Callable[[Tensor], object] | None = None,
    ) -> None:
        self._adapter = adapter
        self._signature = task.signature
        self._is_whole = accumulate * world_size == 1
        self._shares = accumulate * world_size
        self._unit = float(task.max_seq_len or 1)  # keeps the weighted losses near the mean, whatever its value
        self._all_reduce = all_reduce if world_size > 1 else None
        self._reset()

    def _reset(self) -> None:
        self._loss: Tensor | float = 0.0
        self._weight: Tensor | float = 0.0
        self._rows = 0

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """What ``backward`` is called on."""
        mean = self._adapter.loss_of_call(model, batch)
        self._rows += self._signature.row_count(batch)
        if self._is_whole:
            self._loss, self._weight = mean.detach(), 1.0
            return mean
        weight = self._adapter.weight(batch).to(mean.device, mean.dtype)
        # A batch without a label has the mean 0/0 and no gradient; its share of the loss is nothing, rather than NaN.
        self._loss = self._loss + torch.where(weight > 0, mean.detach() * weight, 0)
        self._weight = self._weight + weight
        return mean * (weight / self._unit)

    def finish(self, parameters: Iterable[nn.Parameter]) -> Total:
        """Ends an optimizer step: puts the gradients to the right scale.

        Args:
            parameters: Whose gradients the losses were sent back to, divided by the batches a step and averaged over the processes.
        """
        rows = self._rows
        if self._is_whole:
            loss = self._loss
            self._reset()
            assert isinstance(loss, Tensor)
            return Total(loss, rows)
        assert isinstance(self._loss, Tensor)
        assert isinstance(self._weight, Tensor)
        exact = torch.promote_types(self._loss.dtype, torch.float32)
        sums = torch.stack([part.to(exact) for part in (self._loss, self._weight, self._loss.new_tensor(rows, dtype=exact))])
        if self._all_reduce is not None:
            self._all_reduce(sums)
            rows = int(sums[2])
        self._reset()
        gradients = [p.grad for p in parameters if p.grad is not None]
        if gradients:
            scale_in_place(gradients, (self._shares * self._unit / sums[1]).to(gradients[0].dtype))
        return Total(sums[0] / sums[1], rows)


def with_read_labels(subject: Subject) -> Subject:
    """The subject without the labels that nobody declared, and that the function of its loss does not read.

    An autoencoder's loss compares an output with an input, and that of a contrastive pair rows with each other. Labels that would follow from
    the kinds of such outputs are made, and mean nothing.
    """
    signature, adapter = subject.task.signature, subject.adapter
    if not isinstance(adapter, SignatureAdapter) or not signature.loss or adapter.is_loss_of_forward or signature.declared_labels:
        return subject
    one, two = (subject.batch(seed=seed) for seed in (0, 1))
    loss = _loss_of(subject, one)
    names = {output.name: signature.label_name(output) for output in signature.taught}
    unread = [name for name, label in names.items() if _loss_of(subject, {**one, label: two[label]}) == loss]
    if not unread:
        return subject
    task = replace(subject.task, declared=without_labels(signature, unread))
    return replace(subject, task=task, adapter=adapter.for_task(task))


def _loss_of(subject: Subject, batch: Batch) -> float:
    with seeded(0), torch.no_grad():
        return float(subject.adapter.loss_of_call(subject.fresh(), batch))
