"""The optimizer and schedule of a training config, for models that bring none of their own."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from harness.config import TrainingConfig


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trainable parameters, each once: matrices with weight decay, biases and the scales of norms without."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(model: nn.Module, config: TrainingConfig) -> Optimizer:
    """AdamW over the trainable parameters (Loshchilov and Hutter 2019, arXiv:1711.05101)."""
    return AdamW(parameter_groups(model, config.weight_decay), lr=config.learning_rate)


def make_schedule(optimizer: Optimizer, config: TrainingConfig, steps: int) -> LambdaLR:
    """A linear warm-up to the learning rate, then half a cosine down to a tenth of it.

    Args:
        optimizer: Whose rate it sets.
        config: Has ``warmup_ratio``, the warm-up's share of the run.
        steps: Optimizer steps of the whole run.
    """
    warmup = math.ceil(config.warmup_ratio * steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = min(1.0, (step - warmup) / max(1, steps - warmup))
        return 0.1 + 0.45 * (1 + math.cos(math.pi * done))

    return LambdaLR(optimizer, factor)


def clip_gradients(model: nn.Module, max_norm: float) -> Tensor:
    """Scales the gradients down to a norm, 0 for as they are; returns the norm they had (a scalar)."""
    parameters = [p for p in model.parameters() if p.grad is not None]
    if max_norm:
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
