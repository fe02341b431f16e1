"""The side of the images that a model takes, found in a few calls."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any

from torch import Tensor, nn

_USUAL = (32, 28, 224, 64, 96, 128, 256, 8, 16, 48, 84, 100, 112, 160, 192, 227, 240, 299, 384, 512)
"""Sides in pixels, in the order in which they are tried."""

_BLIND = 12
"""How many sides are tried of a model that does not say whether they are too small or too large."""

_LARGEST = 1024


class Flattened:
    """Watches the linear layers of a model during a call: the last one that got another width than it takes tells by how much a side is off.

    Attributes:
        mismatch: The watcher itself, where a layer got another width.
        got: The width that came.
        wanted: The width the layer takes.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
        self._handles: list[Any] = []
        self.got = self.wanted = 0

    @classmethod
    def watching(cls, model: nn.Module) -> Flattened:
        """A watcher for one call."""
        return cls(model)

    @property
    def mismatch(self) -> Flattened | None:
        """The widths that did not meet; ``None`` where they did."""
        return self if self.got != self.wanted else None

    def __enter__(self) -> Flattened:
        self._handles = [layer.register_forward_pre_hook(self._note) for layer in self._layers]
        return self

    def __exit__(self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()

    def _note(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor) and not inputs[0].is_nested and inputs[0].ndim:
            self.got, self.wanted = int(inputs[0].shape[-1]), int(layer.in_features)  # type: ignore[arg-type]


class SideSearch:
    """Chooses the next side from what the sides before it gave.

    Behind convolutions and a flattening the width at the first linear layer grows with the side, so that each failure halves what is left.

    Args:
        likely: Sides that are tried first.
    """

    def __init__(self, likely: Iterable[int] = ()) -> None:
        self._order = list(dict.fromkeys((*likely, *_USUAL)))
        self._tried: set[int] = set()
        self._low, self._high = 1, _LARGEST + 1
        self._knows_direction = False

    def next_side(self) -> int | None:
        """The next side to try; ``None`` when no other makes sense."""
        if not self._knows_direction and len(self._tried) >= _BLIND:
            return None
        usual = (side for side in self._order if side not in self._tried and self._low < side < self._high)
        side = next(usual, None)
        if side is None and self._knows_direction and self._high - self._low > 1:
            side = (self._low + self._high) // 2
        if side is not None:
            self._tried.add(side)
        return side

    def learn(self, side: int, flattened: Flattened | None) -> None:
        """Takes what a side gave.

        Args:
            side: The side that did not work.
            flattened: The widths that did not meet at a linear layer.
        """
        if flattened is None:
            return
        self._knows_direction = True
        if flattened.got < flattened.wanted:
            self._low = max(self._low, side)
        else:
            self._high = min(self._high, side)
