"""What a model looks up for the ids it is given, seen and replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class IdsRead:
    """An input of ids.

    Attributes:
        ids: What the model is given, the rows first.
        has_tables: Whether each place of the last axis has a table of its own, so that places may be looked up one by one, or all in one table
            after a number is added to each.
    """

    ids: Tensor
    has_tables: bool = False


class Lookups(TorchFunctionMode):
    """Sees, and may replace, what the model looks up for ids, by ``F.embedding`` or ``table[ids]``.

    Args:
        read: Inputs of ids by name.
        replacements: What is returned for them instead.

    Attributes:
        seen: What was looked up, by the input's name; ``name[place]`` where a place was looked up by itself, and with the width after a colon
            where a second table of another width was read.
    """

    def __init__(self, read: Mapping[str, IdsRead], replacements: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.seen: dict[str, Tensor] = {}
        self._read = read
        self._replacements = replacements or {}
        self._passed: set[tuple[str, int]] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name not in ("embedding", "__getitem__", "index_select") or not isinstance(result, Tensor):
            return result
        found = self._found(args, result) if result.is_floating_point() else None
        if found is None:
            return result
        field, ids, turned = found
        if not self._replacements:
            seen = result.transpose(0, 1) if turned else result
            self.seen.setdefault(field, seen.detach().clone().reshape(*ids.shape, -1))
            return result
        replacement = self._replacements.get(field)
        if replacement is None or replacement.numel() != result.numel():
            return result
        return (replacement.transpose(0, 1) if turned else replacement).reshape(result.shape)

    def _found(self, args: tuple[Any, ...], result: Tensor) -> tuple[str, Tensor, bool] | None:
        """The name that a lookup goes by, the ids, and whether they are read as ``[length, batch]``."""
        candidates = [found for arg in args[:3] if isinstance(arg, Tensor) for found in self._candidates(arg)]
        if not candidates:
            return None
        width = result.numel() // max(1, candidates[0][1].numel())
        # Two places may hold the same ids by chance; each is looked up once in a table.
        name, ids, turned = next((each for each in candidates if (each[0], width) not in self._passed), candidates[0])
        self._passed.add((name, width))
        known = (self._replacements or self.seen).get(name)
        other = known is not None and known.numel() != result.numel()
        return (f"{name}:{width}" if other else name), ids, turned

    def _candidates(self, arg: Tensor) -> Iterator[tuple[str, Tensor, bool]]:
        if arg.is_floating_point():
            return
        for name, read in self._read.items():
            ids = read.ids
            if arg.numel() == ids.numel() and torch.equal(arg.flatten().long(), ids.flatten()):
                yield name, ids, False
                return
            if ids.ndim == 2 and arg.shape == ids.t().shape and torch.equal(arg.long(), ids.t()):
                yield name, ids, True
                return
        for name, read in self._read.items():
            if read.has_tables:
                yield from _places(name, read.ids, arg)


def _places(name: str, ids: Tensor, arg: Tensor) -> Iterator[tuple[str, Tensor, bool]]:
    """All places at once, each moved by a number of its own; or single places."""
    if arg.shape == ids.shape and len(ids) > 1:
        moved = arg - ids
        if torch.equal(moved, moved[:1].expand_as(moved)):
            yield name, ids, False
    for place in range(ids.shape[-1]):
        column = ids[..., place]
        if arg.numel() == column.numel() and torch.equal(arg.flatten().long(), column.flatten()):
            yield f"{name}[{place}]", column, False
