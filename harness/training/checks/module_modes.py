"""The modes in which a model is compared with itself, beside train and eval mode."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from harness.compat import BatchNorm, Dropout

ModuleMode = Callable[[nn.Module], None]
"""Puts a model into a state."""


def disable_stochastic_layers(model: nn.Module) -> None:
    """Puts a model into eval mode for good: no dropout, and norms that do not look at the batch, whatever is asked of it later."""
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.RNNBase):  # cuDNN has no backward pass for one in eval mode
            module.train()
            module.dropout = 0.0
    setattr(model, "train", lambda mode=True: model)  # noqa: B010  # mypy takes no assignment to a method


def disable_dropout(model: nn.Module) -> None:
    """Switches dropout off wherever a rate can be found; the model stays in train mode, and its norms look at the batch."""
    for module in model.modules():
        for name, value in list(vars(module).items()):
            is_rate = "drop" in name.lower() or (name == "p" and isinstance(module, Dropout))
            if is_rate and isinstance(value, float):
                setattr(module, name, 0.0)


def disable_dropout_and_freeze_batch_norms(model: nn.Module) -> None:
    """The same, with every batch norm in eval mode for good."""
    disable_dropout(model)
    for module in batch_norms(model).values():
        module.eval()
        setattr(module, "train", lambda mode=True, module=module: module)  # noqa: B010  # mypy takes no assignment to a method


def batch_norms(model: nn.Module) -> dict[str, nn.Module]:
    """The batch norms of a model by path."""
    return {path: module for path, module in model.named_modules() if isinstance(module, BatchNorm)}
