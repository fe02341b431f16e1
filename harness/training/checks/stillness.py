"""A model that computes the same each time it is trained on the same, so that two trainings of it can be compared."""

from __future__ import annotations

from torch import nn


def be_still(model: nn.Module) -> None:
    """Puts a model into eval mode for good: no dropout, and norms that do not look at the batch, whatever is asked of it later."""
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.RNNBase):  # cuDNN has no backward pass for one in eval mode
            module.train()
            module.dropout = 0.0
    setattr(model, "train", lambda mode=True: model)  # noqa: B010  # mypy takes no assignment to a method
