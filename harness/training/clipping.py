"""Gradients as they are before they are clipped, also where the model's own code clips them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.nn.utils import clip_grad

_LIMITS = {"clip_grad_norm_": "max_norm", "clip_grad_value_": "clip_value"}
"""PyTorch's functions, which Lightning's ``clip_gradients`` calls too, and the argument that is the limit."""


@contextmanager
def without_clipping(model: nn.Module) -> Iterator[None]:
    """A block in which clipping leaves every gradient as it is, and still returns the norm.

    Clipped gradients cannot be added up: the sum of two clipped halves is not the clipped whole.

    Args:
        model: Its modules' files may have imported the functions by name.
    """
    originals = {name: getattr(clip_grad, name) for name in _LIMITS}
    unlimited = {id(original): _unlimited(original, _LIMITS[name]) for name, original in originals.items()}
    files = {type(module).__module__ for module in model.modules()} | {cls.__module__ for cls in type(model).__mro__}
    owners = [torch.nn.utils, clip_grad, *(sys.modules[name] for name in files if name in sys.modules)]
    held = [(owner, name, value) for owner in owners for name, value in list(vars(owner).items()) if id(value) in unlimited]
    for owner, name, value in held:
        setattr(owner, name, unlimited[id(value)])
    try:
        yield
    finally:
        for owner, name, value in reversed(held):
            setattr(owner, name, value)


def _unlimited(clip: Callable[..., Any], limit: str) -> Callable[..., Any]:
    @wraps(clip)
    def measure(parameters: Any, *limits: Any, **more: Any) -> Any:
        rest = limits[1:] if limits else ()
        more.pop(limit, None)
        return clip(parameters, float("inf"), *rest, **more)

    return measure
