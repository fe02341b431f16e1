"""Losses and scores: of every sample, and their mean over all labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.adapters import ADAPTERS, Adapter
from harness.batches import Batch, rows
from harness.errors import ForwardError, UserError
from harness.evaluation.answers import Answers, widened
from harness.evaluation.ranks import Ranks
from harness.tasks import TaskSpec
from harness.user_code import raised


class Losses:
    """The loss of batch after batch, each weighted with its labels.

    The mean of the batches' means is not the mean over all labels where batches hold unequal numbers of them.

    Args:
        adapter: Whose loss it is; the task's own one is computed from the answers, without calling it.
        task: What it is for.

    Attributes:
        total: Sum of the loss over the labels, in nats or squared units.
        weight: How many labels there were.
    """

    def __init__(self, adapter: Adapter, task: TaskSpec) -> None:
        self.total = 0.0
        self.weight = 0.0
        self._adapter = adapter
        self._has_own_loss = _is_own(adapter, task, "loss")
        self._has_own_mean = self._has_own_loss or _is_own(adapter, task, "weight")

    def add(self, answers: Answers, logits: Tensor, batch: Batch) -> Tensor:
        """Takes a batch into account.

        Args:
            answers: What the model answered.
            logits: The same as logits, on the batch's device.
            batch: The same rows, with their labels.

        Returns:
            The loss of each row, float64 ``[R]``; NaN for one without a label.

        Raises:
            ForwardError: The user's loss raised, or is no scalar.
        """
        if self._has_own_mean:
            self._add_own_mean(answers, widened(logits), batch)
        else:
            self.total += float(answers.loss.sum())
            self.weight += len(answers.loss)
        return self._own_rows(answers, widened(logits), batch) if self._has_own_loss else answers.row_means(answers.loss)

    def _add_own_mean(self, answers: Answers, logits: Tensor, batch: Batch) -> None:
        if not len(answers.labels):
            return  # the mean of nothing is NaN, and would remain so
        # An adapter need not subclass ours: only its logits and its loss are asked for.
        weight = float(self._adapter.weight(batch)) if hasattr(self._adapter, "weight") else float(len(answers.labels))
        if weight:
            self.total += weight * self._loss(logits, batch)
            self.weight += weight

    def _own_rows(self, answers: Answers, logits: Tensor, batch: Batch) -> Tensor:
        found = torch.full((answers.rows,), torch.nan, dtype=torch.float64, device="cpu")
        for number in answers.row.unique().tolist():
            found[number] = self._loss(logits[number : number + 1], rows(batch, [number]))
        return found

    def _loss(self, logits: Tensor, batch: Batch) -> float:
        try:
            return float(self._adapter.loss(logits, batch))
        except UserError:
            raise
        except Exception as error:
            raise ForwardError(f"{type(self._adapter).__name__}.loss raised {raised(error)}") from error


def _is_own(adapter: Adapter, task: TaskSpec, method: str) -> bool:
    """Whether an adapter computes something otherwise than the task's does."""
    usual = getattr(ADAPTERS[task.task_type.value], method)
    return getattr(getattr(adapter, method, None), "__func__", None) is not usual


class RowNumbers:
    """Collects numbers of every sample by name, and puts those of all ranks into the order of the dataset."""

    def __init__(self) -> None:
        self._found: dict[str, list[NDArray[np.float32]]] = {}

    def add(self, numbers: Mapping[str, Tensor]) -> None:
        """Takes a batch into account.

        Args:
            numbers: One number a row under each name, ``[R]``; the same names for every batch.
        """
        for name, values in numbers.items():
            self._found.setdefault(name, []).append(values.float().cpu().numpy())

    def gathered(self, ranks: Ranks) -> dict[str, NDArray[np.float32]]:
        """The numbers of all ranks' samples, float32 ``[N]`` each; a collective call."""
        own = {name: np.concatenate(parts) for name, parts in self._found.items()}
        shares = ranks.gather(own)
        return {name: _interleaved([share[name] for share in shares]) for name in own}


def row_scores(task: TaskSpec, answers: Answers, losses: Tensor) -> dict[str, Tensor]:
    """Numbers of each row by name, float64 ``[R]``; NaN for a row without a label.

    Args:
        task: Decides which there are beside the loss.
        answers: What the model answered.
        losses: The loss of each row, float64 ``[R]``.
    """
    if task.is_regression:
        return {"loss": losses, "squared_error": answers.row_means(answers.loss)}
    return {"loss": losses, "accuracy" if task.is_per_position else "correct": answers.row_means(answers.correct)}


def row_facts(task: TaskSpec, batch: Batch) -> dict[str, Tensor]:
    """What parts the rows of a batch into kinds: ``label``, where a row has one class, and ``length``, its real tokens; each ``[R]``."""
    found: dict[str, Tensor] = {}
    if task.num_classes is not None and not task.is_per_position and not task.is_regression:
        found["label"] = batch["labels"]
    if "attention_mask" in batch:
        found["length"] = batch["attention_mask"].sum(dim=1)
    return found


def _interleaved(shares: list[NDArray[Any]]) -> NDArray[Any]:
    """Row after row from the ranks in turn, as they were dealt."""
    whole = np.empty(sum(map(len, shares)), dtype=shares[0].dtype)
    for rank, share in enumerate(shares):
        whole[rank :: len(shares)] = share
    return whole
