"""A model evaluated on a dataset."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.adapters import Adapter, SignatureAdapter
from harness.batches import Batch, to_device
from harness.data.loader import Loader
from harness.errors import DataError, UserError
from harness.evaluation import LabelledOutput, chosen_metrics, labelled_outputs, shown_name
from harness.evaluation.answers import Answers, answers_in, check_output, targets_in
from harness.evaluation.scores import Ranks, RowNumbers, make_losses, output_scores, row_facts
from harness.properties.calling import blaming, mode
from harness.properties.subject import floating_dtype
from harness.runtime import seeded
from harness.tasks import TaskSpec
from harness.tasks.axes import BATCH
from harness.tasks.signature import Signature


class Tally:
    """Takes batches into account one after the other, and says in the end what they amount to.

    Args:
        model: The model.
        adapter: Whose loss it is.
        task: What the model is for.
        names: The metrics to measure.
        loader: Where the batches are from.
        ranks: The processes that share them.
    """

    def __init__(
        self, model: nn.Module, adapter: Adapter, task: TaskSpec, names: tuple[str, ...], loader: Loader, ranks: Ranks
    ) -> None:
        from harness.evaluation.metrics.table import Setting, make_meters, make_own_meters

        self._task = task
        self._names = tuple(map(shown_name, names))
        self._ranks = ranks
        self._dataset: Any = loader.order.dataset
        self._outputs = labelled_outputs(task.signature)
        self._losses = make_losses(model, adapter, task)
        self._scores = RowNumbers()
        self._facts = RowNumbers()
        setting = Setting(lambda: len(self._dataset), ranks.synchronisation)
        self._meters = {each.output.name: make_meters(names, each, setting) for each in self._outputs}
        self._own = make_own_meters(names, task, ranks)
        self._measured: set[str] = set()
        self._seen = 0
        self._labels = 0

    def add(self, outputs: Mapping[str, Any], batch: Batch) -> None:
        """Takes a batch into account, but for a row that another rank has too.

        Raises:
            DataError: The labels are missing or wrong.
            OutputError: An output has another shape than the task promises.
        """
        signature = self._task.signature
        start, count = self._seen, signature.row_count(batch)
        self._seen += count
        own = self._ranks.own_rows
        kept = count if own is None else max(0, min(count, own - start))
        answers = {}
        for each in self._judged(batch):
            targets = targets_in(each, batch, lambda row: self._name_row(start + row))
            check_output(each, outputs[each.output.name], targets)
            value, targets = self._cut(each, outputs, targets, kept)
            answers[each.output.name] = answers_in(each, value, targets, signature.rows(batch, slice(kept)))
        if not (kept or signature.deals_rows):
            return
        batch = signature.rows(batch, slice(kept))
        self._count(answers, outputs, batch, kept)

    def _judged(self, batch: Batch) -> Iterator[LabelledOutput]:
        """The outputs that have labels in a batch.

        Raises:
            DataError: One that is trained has none.
        """
        for each in self._outputs:
            if each.labels in batch or (each.output.weight and self._losses.needs_labels):
                yield each

    def _cut(self, each: LabelledOutput, outputs: Mapping[str, Any], targets: Tensor, kept: int) -> tuple[Tensor, Tensor]:
        value = outputs[each.output.name]
        return (value[:kept], targets[:kept]) if each.has_rows else (value, targets)

    def _count(self, answers: Mapping[str, Answers], outputs: Mapping[str, Any], batch: Batch, rows: int) -> None:
        scores = {"loss": self._losses.add(answers, outputs, batch, rows)}
        for each in self._outputs:
            if each.output.name in answers:
                found = answers[each.output.name]
                scores |= output_scores(each, found)
                self._measured.add(each.output.name)
                self._labels += len(found.labels)
                for meter in self._meters[each.output.name].values():
                    meter.update(found)
        self._labels += 0 if self._losses.needs_labels else rows
        self._scores.add(scores)
        self._facts.add(row_facts(self._task, batch))
        with_rows = {each.name for each in self._task.signature.outputs if BATCH in each.axes}
        kept = {
            name: value[:rows] if name in with_rows and isinstance(value, Tensor) else value for name, value in outputs.items()
        }
        for own in self._own.values():
            own.update(kept, batch, rows)

    def summary(self) -> dict[str, float]:
        """The metrics by name; a collective call.

        Raises:
            DataError: No row has a label.
        """
        labels = sum(self._ranks.gather(self._labels))
        if not labels:
            raise DataError(f"{self._data_name}: no row has a label to evaluate")
        found: dict[str, Any] = {**self._losses.means(self._ranks)}
        for each in self._outputs:
            if any(self._ranks.gather(each.output.name in self._measured)):
                found |= {f"{each.prefix}{name}": meter.compute() for name, meter in self._meters[each.output.name].items()}
        found |= {name: meter.compute() for name, meter in self._own.items()}
        return {name: float(value) for name in self._names if (value := found.get(name)) is not None}

    def scores(self) -> dict[str, NDArray[np.float32]]:
        """The scores of each sample, ``[N]``; a collective call."""
        return self._scores.gathered(self._ranks)

    def facts(self) -> dict[str, NDArray[np.float32]]:
        """What is known of each sample, ``[N]``; a collective call."""
        return self._facts.gathered(self._ranks)

    @property
    def _data_name(self) -> str:
        return getattr(getattr(self._dataset, "origin", None), "name", "the evaluation data")

    def _name_row(self, place: int) -> str:
        return f"{self._data_name}, row {self._ranks.row_number(place) + 1}"


@dataclass(frozen=True)
class Evaluation:
    """How well a model does on a dataset.

    Attributes:
        summary: ``loss``, the mean over all labels of the dataset, and the task's metrics by name, those of outputs beside the main one with
            the output's name before a dot. One that is not defined for the data (``roc_auc`` where a class is absent, ``r2`` of equal
            labels) is left out. Logits with NaN or infinity make every metric NaN except ``accuracy``, ``f1``, ``bleu`` and ``rouge_l``,
            which count them as wrong.
        scores: Numbers of each sample in the order of the dataset, float32 ``[N]``: ``loss``, the mean over the sample's labels;
            ``correct`` (0 or 1) for one class a row; ``accuracy``, the share of its labels that is right, where each position has one;
            ``squared_error`` for numbers; ``error_rate`` for symbols along time. NaN for a sample without a label.
        facts: Whole numbers by which samples can be told apart, float32 ``[N]``: ``label`` where a sample has one class, ``length`` in real
            elements where rows may be shorter.
        examples: N.
        seconds: From the first batch to the last number.
    """

    summary: dict[str, float]
    scores: dict[str, NDArray[np.float32]]
    facts: dict[str, NDArray[np.float32]]
    examples: int
    seconds: float


def evaluate(
    model: nn.Module,
    adapter: Adapter,
    task: TaskSpec,
    loader: Loader,
    *,
    device: torch.device | str | None = None,
    forward: Callable[[], AbstractContextManager[object]] = nullcontext,
    on_batch: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Evaluates a model; it is put into eval mode meanwhile, and the global random state is left alone.

    Where the loader deals the rows to several processes, every one of them must call this; each gets the evaluation of the whole.

    Args:
        model: The model.
        adapter: How it is called, and its loss; one of the user's own is asked for the loss of each batch and of each row.
        task: What it is for; ``task.metrics`` names what is measured, see ``chosen_metrics``.
        loader: The data, not shuffled and without a row left out.
        device: Where the model is; by default where its first tensor is.
        forward: Makes a context for each forward, such as autocast.
        on_batch: Told after each batch how many were done and how many there are.

    Raises:
        ConfigError: ``task.metrics`` names a metric that the task does not have.
        DataError: There are no labels, or one is out of range; the row is named.
        OutputError: The logits have another shape than the task promises.
        ForwardError: The model's or the adapter's code raised.
        ValueError: The loader leaves rows out, or gives them in another order than that of the dataset.
    """
    names = chosen_metrics(task)
    _check_order(loader)
    ranks = Ranks.of(loader.order)
    tally = Tally(model, adapter, task, names, loader, ranks)
    call = _Call(model, adapter, task.signature, device, forward)
    started = time.perf_counter()
    with mode(model, train=False), torch.no_grad(), seeded(0), ranks.failing_together():
        _score(call, loader, tally, on_batch, raise_at_once=ranks.size == 1)
    summary, scores, facts = tally.summary(), tally.scores(), tally.facts()
    return Evaluation(summary, scores, facts, len(scores["loss"]), time.perf_counter() - started)


class _Call:
    """Calls the model on batches as they come from the loader."""

    def __init__(
        self,
        model: nn.Module,
        adapter: Adapter,
        signature: Signature,
        device: torch.device | str | None,
        forward: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self.model, self._adapter, self._forward = model, adapter, forward
        self._main, self._inputs = signature.main.name, {each.name for each in signature.inputs}
        first = next(chain(model.parameters(), model.buffers()), None)
        self._device = device if device is not None or first is None else first.device
        self._dtype = floating_dtype(model)

    def __call__(self, batch: Batch) -> tuple[Mapping[str, Any], Batch]:
        """The outputs by name, and the batch on their device; floating inputs are in the model's dtype, labels in their own."""
        inputs = {name: tensor for name, tensor in batch.items() if name in self._inputs}
        there = {**to_device(batch, self._device), **to_device(inputs, self._device, self._dtype)}
        with blaming(self.model), self._forward():
            # An adapter need not subclass ours: only its logits and its loss are asked for.
            if isinstance(self._adapter, SignatureAdapter):
                return self._adapter.outputs(self.model, there), there
            return {self._main: self._adapter.logits(self.model, there)}, there


def _score(call: _Call, loader: Loader, tally: Tally, on_batch: Callable[[int, int], None] | None, raise_at_once: bool) -> None:
    trouble: UserError | None = None
    total = len(loader) if on_batch else 0
    for done, batch in enumerate(loader, 1):
        outputs, there = call(batch)
        try:
            tally.add(outputs, there)
        except UserError as error:
            if raise_at_once:
                raise
            # Forwards may be collective calls, which the other ranks would wait for.
            trouble = trouble or error
        if on_batch:
            on_batch(done, total)
    if trouble:
        raise trouble


def _check_order(loader: Loader) -> None:
    order = loader.order
    if order.shuffle or order.start:
        raise ValueError("the loader must give all rows in the dataset's order: no `shuffle`, not resumed")
