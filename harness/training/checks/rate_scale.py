"""Learning rates multiplied, whichever optimizer and schedule set them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from torch.optim import Optimizer

from harness.training.errors import TrainingError


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
