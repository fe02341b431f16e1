"""A model evaluated on a dataset."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.adapters import Adapter
from harness.batches import Batch, to_device
from harness.data.loader import Loader
from harness.errors import UserError
from harness.evaluation.metric_names import chosen_metrics
from harness.evaluation.ranks import Ranks
from harness.evaluation.tally import Tally
from harness.properties.calling import blaming, mode
from harness.properties.subject import floating_dtype
from harness.runtime import seeded
from harness.tasks import TaskSpec


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
    if order.shuffle or order.drop_last or order.start:
        raise ValueError("the loader must give all rows in the dataset's order: no `shuffle`, no `drop_last`, not resumed")
