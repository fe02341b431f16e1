"""Moves a model to a device and a dtype."""

from __future__ import annotations

import torch
from torch import nn


def move(model: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> nn.Module:
    """Moves a model in place and returns it.

    A class may have a ``to`` of its own, which takes a device only, or returns nothing: it is called as users call it, and the dtype is
    left to PyTorch's.

    Args:
        model: The model.
        device: Where it goes.
        dtype: What its floating tensors become; ``None`` leaves them as they are.
    """
    model.to(device)
    if dtype is not None:
        nn.Module.to(model, dtype=dtype)
    return model
