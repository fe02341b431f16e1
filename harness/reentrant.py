"""Reentrant activation checkpoints, which refuse to be asked for the gradient by an input.

``torch.utils.checkpoint`` with ``use_reentrant=True``, its default for years, works with ``loss.backward()`` alone: training is sound,
and ``torch.autograd.grad`` raises. A check that needs the latter is run once more with the checkpointed function called directly,
which computes the same.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_REFUSAL = re.compile(r"checkpoint.*(incompatible|not compatible) with \.grad\(\)", re.IGNORECASE | re.DOTALL)


def refuses_gradients(error: BaseException) -> bool:
    """Whether a reentrant checkpoint refused what a check asked for; not where a module's own forward asked."""
    if not isinstance(error, RuntimeError) or not _REFUSAL.search(str(error)):
        return False
    from torch import nn

    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return not any(isinstance(frame.f_locals.get("self"), nn.Module) for frame in frames)


@contextmanager
def called_directly() -> Iterator[None]:
    """Reentrant checkpoints call their function and keep what it computes."""
    import torch.utils.checkpoint as module

    original = module.CheckpointFunction
    module.CheckpointFunction = _Direct  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        module.CheckpointFunction = original  # type: ignore[misc]


class _Direct:
    """Stands for torch's autograd function."""

    @staticmethod
    def apply(function: Callable[..., Any], _preserve_rng_state: bool, *args: Any) -> Any:
        """What the function returns."""
        return function(*args)
