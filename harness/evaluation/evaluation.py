"""A model evaluated on a dataset."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.adapters import Adapter
from harness.batches import Batch, rows, to_device
from harness.data.loader import Loader
from harness.errors import DataError, UserError
from harness.evaluation.answers import answers_of, check_logits, targets_of
from harness.evaluation.metric_names import chosen_metrics
from harness.evaluation.ranks import Ranks
from harness.evaluation.scores import Losses, RowNumbers, row_facts, row_scores
from harness.properties.calling import blaming, mode
from harness.properties.subject import floating_dtype
from harness.runtime import seeded
from harness.tasks import TaskSpec


class Tally:
    """Takes batches into account one after the other, and says in the end what they amount to.

    Args:
        adapter: Whose loss it is.
        task: What the model is for.
        names: The metrics to measure.
        loader: Where the batches are from.
        ranks: The processes that share them.
    """

    def __init__(self, adapter: Adapter, task: TaskSpec, names: tuple[str, ...], loader: Loader, ranks: Ranks) -> None:
        from harness.evaluation.metrics.table import Setting, make_meters

        self._task = task
        self._names = names
        self._ranks = ranks
        self._dataset: Any = loader.order.dataset
        self._losses = Losses(adapter, task)
        self._scores = RowNumbers()
        self._facts = RowNumbers()
        self._meters = make_meters(names, Setting(task.num_classes or 0, lambda: len(self._dataset), ranks.synchronisation))
        self._seen = 0
        self._labels = 0

    def add(self, logits: Tensor, batch: Batch) -> None:
        """Takes a batch into account, but for a row that another rank has too.

        Args:
            logits: What the model said of the batch.
            batch: With its labels, on the logits' device.

        Raises:
            DataError: The labels are missing or wrong.
            OutputError: The logits have another shape than the task promises.
        """
        start = self._seen
        self._seen += len(next(iter(batch.values())))
        targets = targets_of(self._task, batch, lambda row: self._name_row(start + row))
        check_logits(self._task, logits, targets)
        own = self._ranks.own_rows
        kept = slice(None if own is None else max(0, own - start))
        logits, batch = logits[kept], rows(batch, kept)
        answers = answers_of(self._task, logits, targets[kept])
        self._labels += len(answers.labels)
        self._scores.add(row_scores(self._task, answers, self._losses.add(answers, logits, batch)))
        self._facts.add(row_facts(self._task, batch))
        for meter in self._meters.values():
            meter.update(answers)

    def summary(self) -> dict[str, float]:
        """The metrics by name; a collective call.

        Raises:
            DataError: No row has a label.
        """
        parts = self._ranks.gather((self._losses.total, self._losses.weight, self._labels))
        total, weight, labels = (sum(column) for column in zip(*parts, strict=True))
        if not labels:
            raise DataError(f"{self._data_name}: no row has a label to evaluate")
        loss = torch.tensor(total, dtype=torch.float64) / weight
        found: dict[str, Tensor | None] = {"loss": loss, "perplexity": loss.exp()}
        found.update((name, meter.compute()) for name, meter in self._meters.items())
        return {name: float(value) for name in self._names if (value := found[name]) is not None}

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
        summary: ``loss``, the mean over all labels of the dataset, and the task's metrics by name. One that is not defined for the data
            (``roc_auc`` where a class is absent, ``r2`` of equal labels) is left out. Logits with NaN or infinity make every metric NaN
            except ``accuracy``, ``f1``, ``bleu`` and ``rouge_l``, which count them as wrong.
        scores: Numbers of each sample in the order of the dataset, float32 ``[N]``: ``loss``, the mean over the sample's labels;
            ``correct`` (0 or 1) for classification; ``accuracy``, the share of its labels that is right, where each token has one;
            ``squared_error`` for regression. NaN for a sample without a label.
        facts: Whole numbers by which samples can be told apart, float32 ``[N]``: ``label`` where a sample has one class, ``length`` in real
            tokens where it is text.
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
    tally = Tally(adapter, task, names, loader, ranks)
    call = _Call(model, adapter, device, forward)
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
        device: torch.device | str | None,
        forward: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self.model, self._adapter, self._forward = model, adapter, forward
        first = next(chain(model.parameters(), model.buffers()), None)
        self._device = device if device is not None or first is None else first.device
        self._dtype = floating_dtype(model)

    def __call__(self, batch: Batch) -> tuple[Tensor, Batch]:
        """The logits, and the batch on their device; floating inputs are in the model's dtype, labels in their own."""
        there = to_device(batch, self._device, self._dtype)
        if "labels" in batch:
            there |= to_device({"labels": batch["labels"]}, self._device)
        with blaming(self.model), self._forward():
            return self._adapter.logits(self.model, there), there


def _score(call: _Call, loader: Loader, tally: Tally, on_batch: Callable[[int, int], None] | None, raise_at_once: bool) -> None:
    trouble: UserError | None = None
    total = len(loader) if on_batch else 0
    for done, batch in enumerate(loader, 1):
        logits, there = call(batch)
        try:
            tally.add(logits, there)
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
