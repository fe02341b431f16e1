"""The random numbers of a training step, row by row: so that a part of a batch can be trained on with those it had in the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ORDERS = ("aten::randperm",)
"""Draws of which a part is no draw for a part of the rows."""


class RowDraws:
    """What PyTorch's generators drew in one training step on a whole batch.

    A row's noise, dropped path or latent sample is its own; yet it depends on how many rows are drawn for at once, so that equal seeds do not
    give the rows of a half what they had in the whole.

    Attributes:
        values: The results of each random operation, in order.
        is_lost: Whether some later step drew other numbers than there are: another operation, or other shapes than a part of the rows has.
    """

    def __init__(self) -> None:
        self.values: list[tuple[str, list[Tensor]]] = []
        self.is_lost = False
        self._is_paused = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A block whose draws are not the training step's."""
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused = False

    @contextmanager
    def recording(self) -> Iterator[None]:
        """A block whose draws are kept."""

        def keep(name: str, drawn: list[Tensor]) -> None:
            if self._is_paused:
                return
            self.values.append((name, [tensor.detach().clone() for tensor in drawn]))

        with _Drawing(keep):
            yield

    @contextmanager
    def replayed(self, part: int = 0, parts: int = 1) -> Iterator[None]:
        """A block that draws again what was kept, in whatever dtype it draws.

        Args:
            part: Which part of the rows it is about.
            parts: How many equal parts there are.
        """
        kept = iter(self.values)

        def put_back(name: str, drawn: list[Tensor]) -> None:
            if self._is_paused:
                return
            known, values = next(kept, ("", []))
            shares = [_share(value, tensor, part) for value, tensor in zip(values, drawn, strict=False)]
            if known != name or len(values) != len(drawn) or any(share is None for share in shares):
                self.is_lost = True
                return
            is_order = name.startswith(_ORDERS) and parts > 1
            self.is_lost |= is_order
            for tensor, share in zip(drawn, shares, strict=True):
                if share is not None and not is_order:
                    tensor.copy_(share)

        if not self.values:
            yield
            return
        with _Drawing(put_back):
            yield


class _Drawing(TorchDispatchMode):
    """Hands over the results of every random operation."""

    def __init__(self, on_draw: Callable[[str, list[Tensor]], None]) -> None:
        super().__init__()
        self._on_draw = on_draw

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags:
            self._on_draw(func.name(), [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)])
        return result


def _share(value: Tensor, drawn: Tensor, part: int) -> Tensor | None:
    """What of a draw belongs to a part of the rows; ``None`` where it cannot be told."""
    if value.shape == drawn.shape:
        return value
    if value.ndim != drawn.ndim:
        return None
    axes = [axis for axis in range(value.ndim) if value.shape[axis] != drawn.shape[axis]]
    axis, size = axes[0], drawn.shape[axes[0]]
    if len(axes) > 1 or not size or value.shape[axis] % size or value.shape[axis] // size <= part:
        return None
    return value.narrow(axis, part * size, size)
