"""Numbers for every sample: which ones it does well on, and which badly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from harness.batches import Batch
from harness.evaluation.answers import Answers
from harness.evaluation.ranks import Ranks
from harness.tasks import TaskSpec


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
