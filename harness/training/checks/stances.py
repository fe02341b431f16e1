"""The states in which a model is compared with itself."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

Stance = Callable[[nn.Module], None]
"""Puts a model into a state."""


def certain(model: nn.Module) -> None:
    """Switches dropout off wherever a rate can be found; the model stays in train mode, and its norms look at the batch."""
    for module in model.modules():
        for name, value in list(vars(module).items()):
            is_rate = "drop" in name.lower() or (name == "p" and isinstance(module, _DropoutNd))
            if is_rate and isinstance(value, float):
                setattr(module, name, 0.0)


def certain_but_for_norms(model: nn.Module) -> None:
    """The same, with every batch norm in eval mode for good."""
    certain(model)
    for module in batch_norms(model).values():
        module.eval()
        setattr(module, "train", lambda mode=True, module=module: module)  # noqa: B010  # mypy takes no assignment to a method


def batch_norms(model: nn.Module) -> dict[str, nn.Module]:
    """The batch norms of a model by path."""
    return {path: module for path, module in model.named_modules() if isinstance(module, _BatchNorm)}
