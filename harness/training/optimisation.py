"""The optimizer and schedule of a training config, for models that bring none of their own; clipping and learning rates of those that do."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from harness.config import TrainingConfig
from harness.training.errors import TrainingError

_LIMITS = {"clip_grad_norm_": "max_norm", "clip_grad_value_": "clip_value"}
"""PyTorch's functions, which Lightning's ``clip_gradients`` calls too, and the argument that is the limit."""


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


@contextmanager
def without_clipping(model: nn.Module) -> Iterator[None]:
    """A block in which clipping leaves every gradient as it is, and still returns the norm.

    Clipped gradients cannot be added up: the sum of two clipped halves is not the clipped whole.

    Args:
        model: Its modules' files may have imported the functions by name.
    """
    with replaced_clipping(model, _unlimited):
        yield


Clip = Callable[..., Any]
"""One of PyTorch's functions that clip gradients."""


@contextmanager
def replaced_clipping(model: nn.Module, replace: Callable[[Clip, str], Clip]) -> Iterator[None]:
    """A block in which PyTorch's functions that clip gradients are others.

    Args:
        model: Its modules' files may have imported the functions by name.
        replace: From one of the functions, and the name of the argument that is its limit, to what is called in its place.
    """
    originals = {name: getattr(clip_grad, name) for name in _LIMITS}
    others = {id(original): replace(original, _LIMITS[name]) for name, original in originals.items()}
    files = {type(module).__module__ for module in model.modules()} | {cls.__module__ for cls in type(model).__mro__}
    owners = [torch.nn.utils, clip_grad, *(sys.modules[name] for name in files if name in sys.modules)]
    held = [(owner, name, value) for owner in owners for name, value in list(vars(owner).items()) if id(value) in others]
    for owner, name, value in held:
        setattr(owner, name, others[id(value)])
    try:
        yield
    finally:
        for owner, name, value in reversed(held):
            setattr(owner, name, value)


def _unlimited(clip: Clip, limit: str) -> Clip:
    @wraps(clip)
    def measure(parameters: Any, *limits: Any, **more: Any) -> Any:
        rest = limits[1:] if limits else ()
        more.pop(limit, None)
        return clip(parameters, float("inf"), *rest, **more)

    return measure


class RateScale:
    """Multiplies the rate of every step; give it to ``Trial.train`` as ``on_gradients``.

    The rate is put back after the step, so that the schedule, which may multiply the rate it finds, does not notice.

    Args:
        factor: 0 for steps that go nowhere.

    Attributes:
        steps: How many were scaled.
    """

    def __init__(self, factor: float) -> None:
        self.steps = 0
        self._factor = factor
        self._before: WeakKeyDictionary[Optimizer, list[Any]] = WeakKeyDictionary()
        self._watched: WeakKeyDictionary[Optimizer, bool] = WeakKeyDictionary()

    def __call__(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        """A step is about to be taken.

        Raises:
            TrainingError: An optimizer has no rate to multiply, as it finds its own.
        """
        self.steps += 1
        for optimizer in optimizers:
            if optimizer in self._before:  # a step that evaluates its closure several times
                continue
            if any(group.get("lr") is None for group in optimizer.param_groups):
                raise TrainingError(f"{type(optimizer).__name__} has no learning rate to multiply: it finds its own")
            if optimizer not in self._watched:
                optimizer.register_step_post_hook(self._put_back)
                self._watched[optimizer] = True
            self._before[optimizer] = [group["lr"] for group in optimizer.param_groups]
            for group in optimizer.param_groups:
                group["lr"] = group["lr"] * self._factor

    def _put_back(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        for group, rate in zip(optimizer.param_groups, self._before.pop(optimizer, []), strict=False):
            group["lr"] = rate
