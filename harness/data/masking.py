"""What a masked language model has to guess: some tokens hidden, some swapped, the rest shown."""

from __future__ import annotations

from random import Random

import torch

from harness.batches import IGNORED
from harness.data.id_space import IdSpace
from harness.data.record import Example
from harness.tasks import TaskSpec

_CHOSEN, _HIDDEN, _SWAPPED = 0.15, 0.8, 0.1


def mask_tokens(example: Example, task: TaskSpec, seed: str) -> Example:
    """Chooses 15% of the tokens, at least one; 80% of those are hidden, 10% swapped, 10% left (BERT, arXiv:1810.04805).

    Args:
        example: A row with ``input_ids``; one with ``labels`` of its own is left as it is.
        task: A masked LM's.
        seed: The same seed chooses the same tokens.

    Returns:
        A new example whose ``labels`` are the chosen tokens, and -100 elsewhere.
    """
    if "labels" in example:
        return example
    space = IdSpace.of(task)
    assert space.mask is not None
    rng = Random(seed)
    ids = example["input_ids"].tolist()
    chosen = [position for position in range(len(ids)) if rng.random() < _CHOSEN] or [int(rng.random() * len(ids))]
    labels = [IGNORED] * len(ids)
    for position in chosen:
        labels[position] = ids[position]
        fate = rng.random()
        if fate < _HIDDEN:
            ids[position] = space.mask
        elif fate < _HIDDEN + _SWAPPED:
            ids[position] = space.free[int(rng.random() * len(space.free))]
    return {**example, "input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}
