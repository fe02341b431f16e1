"""PyTorch's fused attention layers, which hide what happens inside, and hand nested tensors on that no exporter knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def without_fast_path() -> Iterator[None]:
    """Has ``nn.MultiheadAttention`` and ``nn.TransformerEncoder`` take single steps on dense tensors, as they do in training."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
