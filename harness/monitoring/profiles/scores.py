"""What is measured of a model's mistakes, where there are labels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from harness.adapters import Adapter
from harness.batches import Batch
from harness.evaluation.answers import answers_of
from harness.evaluation.losses import Losses
from harness.evaluation.scores import row_scores
from harness.evaluation.targets import check_logits, targets_of
from harness.monitoring.profiles.values import Numbers, Values
from harness.tasks import TaskSpec


def score_values(task: TaskSpec, adapter: Adapter, logits: Tensor, batch: Batch) -> Mapping[str, Values]:
    """The loss of each row, and how right its answer is; nothing without labels.

    A change of what is right, such as labels of another meaning, shows in these and in no input.

    Args:
        task: What the logits mean.
        adapter: Whose loss it is.
        logits: What the model said.
        batch: The rows, on the logits' device.

    Raises:
        DataError: A label is out of range.
        OutputError: The logits have another shape than the task promises.
    """
    if "labels" not in batch:
        return {}
    targets = targets_of(task, batch, lambda row: f"row {row + 1} of a batch")
    check_logits(task, logits, targets)
    answers = answers_of(task, logits, targets)
    losses = Losses(adapter, task).add(answers, logits, batch)
    found = row_scores(task, answers, losses)
    return {f"score.{name}": Numbers(np.ascontiguousarray(values.double().numpy())) for name, values in found.items()}
