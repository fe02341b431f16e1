"""The global random state of torch: seeded for a while, then put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def torch_states() -> list[Tensor]:
    """States of torch's generators: the CPU's, and those of the CUDA devices in use."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return [torch.default_generator.get_state(), *cuda]


def restore_torch(states: list[Tensor]) -> None:
    """Puts the states back."""
    torch.default_generator.set_state(states[0])
    if states[1:]:
        torch.cuda.set_rng_state_all(states[1:])


def seed_torch(seed: int) -> None:
    """Seeds the generators that are in use; ``torch.manual_seed`` also formats a stack trace for every accelerator that is not."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Runs a block under a seed and leaves the global random state as it was."""
    states = torch_states()
    seed_torch(seed)
    try:
        yield
    finally:
        restore_torch(states)
