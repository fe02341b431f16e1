"""What is known of a model after so many batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.adapters import Adapter
from harness.batches import Batch, rows
from harness.data.loader import Loader
from harness.errors import DataError
from harness.evaluation.answers import answers_of
from harness.evaluation.losses import Losses
from harness.evaluation.ranks import Ranks
from harness.evaluation.scores import RowNumbers, row_facts, row_scores
from harness.evaluation.targets import check_logits, targets_of
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
        from harness.evaluation.meters.table import Setting, make_meters

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
