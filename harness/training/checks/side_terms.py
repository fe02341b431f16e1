"""Losses with a term beside the one of the logits, such as the balance loss of a mixture of experts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from harness.batches import Batch, to_device
from harness.training.checks.noise import Quantities, find_gap
from harness.training.checks.observation import Observation, Prepare, observe
from harness.training.trial import Trial

_LOGITS = "the logits"

SIDE_TERM = (
    "a balance loss, as of a mixture of experts, or another statistic of the batch that is no mean over its rows; where it is meant, nothing "
    "needs to change"
)
"""What the cause of such a difference usually is."""


def is_mean_through_logits(trial: Trial, whole: Batch, parts: Sequence[Batch]) -> bool:
    """Whether the gradient that the loss sends back to the logits of a batch is the mean of those of its parts.

    Where it is and the gradients of the weights differ all the same, the difference comes from a term that does not go through the logits.

    Args:
        trial: The model.
        whole: The batch.
        parts: Its parts, equally large and with equally many labels.
    """
    if not trial.is_own or any(observe(trial, [batch]).slope is None for batch in (whole, *parts)):
        return False
    return not find_gap(trial, partial(_of_whole, whole), partial(_of_parts, parts)).is_real


def _of_whole(whole: Batch, trial: Trial, /, *, prepare: Prepare | None = None, seed: int = 0) -> Quantities:
    slope = _seen(trial, whole, prepare, seed).slope
    return {} if slope is None else {_LOGITS: slope}


def _of_parts(parts: Sequence[Batch], trial: Trial, /, *, prepare: Prepare | None = None, seed: int = 0) -> Quantities:
    slopes = [_seen(trial, part, prepare, seed).slope for part in parts]
    found = [slope / len(parts) for slope in slopes if slope is not None]
    return {_LOGITS: torch.cat(found)} if len(found) == len(slopes) else {}


def _seen(trial: Trial, batch: Batch, prepare: Prepare | None, seed: int) -> Observation:
    return observe(trial, [to_device(batch, trial.subject.device, trial.subject.dtype)], prepare=prepare, seed=seed)
