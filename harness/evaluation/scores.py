"""Numbers for every sample: which ones it does well on, and which badly."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from harness.evaluation.answers import Answers
from harness.evaluation.ranks import Ranks
from harness.tasks import TaskSpec


class Scores:
    """Collects one number a sample and score, and puts the ranks' numbers into the order of the dataset.

    Args:
        task: Decides which scores there are beside the loss.
    """

    def __init__(self, task: TaskSpec) -> None:
        self._task = task
        self._found: dict[str, list[NDArray[np.float32]]] = {}

    def add(self, answers: Answers, losses: Tensor) -> None:
        """Takes a batch into account.

        Args:
            answers: What the model answered.
            losses: The loss of each row, float64 ``[R]``.
        """
        if self._task.is_regression:
            further = {"squared_error": answers.row_means(answers.loss)}
        else:
            name = "accuracy" if self._task.is_per_position else "correct"
            further = {name: answers.row_means(answers.correct)}
        for name, values in {"loss": losses, **further}.items():
            self._found.setdefault(name, []).append(values.float().numpy())

    def gathered(self, ranks: Ranks) -> dict[str, NDArray[np.float32]]:
        """The scores of all ranks' samples, each ``[N]``; a collective call."""
        own = {name: np.concatenate(parts) for name, parts in self._found.items()}
        shares = ranks.gather(own)
        return {name: _interleaved([share[name] for share in shares]) for name in own}


def _interleaved(shares: list[NDArray[Any]]) -> NDArray[Any]:
    """Row after row from the ranks in turn, as they were dealt."""
    whole = np.empty(sum(map(len, shares)), dtype=shares[0].dtype)
    for rank, share in enumerate(shares):
        whole[rank :: len(shares)] = share
    return whole
