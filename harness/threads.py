"""How many threads a small model runs on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_SMALL = 1_000_000


@contextmanager
def threads_for(model: nn.Module) -> Iterator[None]:
    """Runs a block on one thread when the model has fewer than a million parameters.

    Its operators are too short to share out, and where the cores are busy with something else, as in CI, threads that wait for each
    other make a run several times slower.
    """
    before = torch.get_num_threads()
    if sum(parameter.numel() for parameter in model.parameters()) < _SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
