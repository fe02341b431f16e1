"""How a script trains: its optimizer, its batches, clipping, accumulation and mixed precision, as far as a config has keys for them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from torch.utils.data import DataLoader

from harness.recording import SeenTraining
from harness.recording.constructions import place_of

_SHOWN = ("lr", "betas", "momentum", "weight_decay", "eps")


class Training:
    """What a script trains with, once ``install`` was called.

    Attributes:
        steps: Steps taken, of the optimizer that took most.
    """

    def __init__(self) -> None:
        self._optimizers: dict[int, tuple[Optimizer, str]] = {}
        self._taken: dict[int, int] = {}
        self._clips: tuple[float, str] | None = None
        self._batch: tuple[int, str] | None = None
        self._autocast = ""

    @property
    def has_optimizer(self) -> bool:
        """Whether one was made."""
        return bool(self._optimizers)

    @property
    def steps(self) -> int:
        """Steps taken, of the optimizer that took most."""
        return max(self._taken.values(), default=0)

    def trains(self, module: nn.Module) -> bool:
        """Whether an optimizer has parameters of a module."""
        taught = {
            id(each) for optimizer, _ in self._optimizers.values() for group in optimizer.param_groups for each in group["params"]
        }
        return any(id(parameter) in taught for parameter in module.parameters())

    def install(self, after_step: Callable[[], None]) -> None:
        """Begins to watch.

        Args:
            after_step: Called after each step of an optimizer.
        """
        training, made = self, Optimizer.__init__

        @wraps(made)
        def init(optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
            training._optimizers[id(optimizer)] = (optimizer, place_of(sys._getframe(1)))
            made(optimizer, *args, **kwargs)

        Optimizer.__init__ = init  # type: ignore[method-assign, assignment]
        self._watch_loader()
        self._watch_clipping()

        def stepped(optimizer: Optimizer, *_: Any) -> None:
            training._taken[id(optimizer)] = training._taken.get(id(optimizer), 0) + 1
            after_step()

        register_optimizer_step_post_hook(stepped)

    def called(self, place: str) -> None:
        """Takes note of a call of the model that is to be trained."""
        kind = next((kind for kind in ("cuda", "cpu") if torch.is_autocast_enabled(kind)), "")
        if kind and not self._autocast:
            self._autocast = place

    def found(self, module: nn.Module, backwards: int) -> SeenTraining:
        """What was seen of the training of a module.

        Args:
            module: The module.
            backwards: How often ``backward`` was called.
        """
        settings: dict[str, tuple[Any, str]] = {}
        optimizer, place = next(((each, place) for each, place in self._optimizers.values() if _has(each, module)), (None, ""))
        if self._batch is not None:
            settings["batch_size"] = self._batch
        if optimizer is None:
            return SeenTraining(settings)
        defaults = {
            name: value for name, value in optimizer.defaults.items() if name in _SHOWN and isinstance(value, (int, float, tuple))
        }
        shown = ", ".join(f"{name}={value!r}" for name, value in defaults.items())
        rate, decay = optimizer.defaults.get("lr"), optimizer.defaults.get("weight_decay")
        if (
            type(rate) is float and rate > 0 and type(optimizer).__name__ in ("Adam", "AdamW", "NAdam", "RAdam")
        ):  # others take other rates
            settings["learning_rate"] = (rate, place)
            if type(optimizer).__name__ == "AdamW" and isinstance(decay, (int, float)):
                settings["weight_decay"] = (float(decay), place)
        if self._clips is not None:
            settings["max_grad_norm"] = self._clips
        taken = self._taken.get(id(optimizer), 0)
        if len(self._optimizers) == 1 and taken and backwards > taken and backwards % taken == 0:
            settings["accumulate_grad_batches"] = (backwards // taken, place)
        if self._autocast:
            settings["use_amp"] = (True, self._autocast)
        return SeenTraining(settings, f"{type(optimizer).__name__}({shown})", place)

    def _watch_loader(self) -> None:
        training, made = self, DataLoader.__init__

        @wraps(made)
        def init(loader: DataLoader[Any], *args: Any, **kwargs: Any) -> None:
            made(loader, *args, **kwargs)
            if training._batch is None and isinstance(loader.batch_size, int):
                training._batch = (loader.batch_size, place_of(sys._getframe(1)))

        DataLoader.__init__ = init  # type: ignore[method-assign, assignment]

    def _watch_clipping(self) -> None:
        training, clip = self, nn.utils.clip_grad_norm_

        @wraps(clip)
        def watched(parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Any:
            training._clips = training._clips or (float(max_norm), place_of(sys._getframe(1)))
            return clip(parameters, max_norm, *args, **kwargs)

        nn.utils.clip_grad_norm_ = watched


def _has(optimizer: Optimizer, module: nn.Module) -> bool:
    own = {id(parameter) for parameter in module.parameters()}
    return any(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"])
