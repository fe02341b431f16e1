"""What is passed for one parameter of forward while a call that works is looked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

Holds = Literal["numbers", "ids", "bools", "ones", "lengths", "parts"]

BATCH = 3
"""Rows of a trial."""

FEW = 2
"""How many ids there are of an argument of which only the name says that it holds ids."""

IMAGE_SIDE = 32
"""First height and width that are tried."""

_BY_AXES: dict[int, tuple[int, ...]] = {
    0: (),
    1: (BATCH,),
    2: (BATCH, 13),
    3: (BATCH, 11, 13),
    4: (BATCH, 3, IMAGE_SIDE, IMAGE_SIDE),
    5: (BATCH, 3, 16, IMAGE_SIDE, IMAGE_SIDE),
}
"""Sizes that are tried first: primes where nothing says otherwise, so that an axis is told by its size in a message."""


@dataclass(frozen=True)
class Argument:
    """A guess of what one parameter takes.

    Attributes:
        name: The parameter; of a part, its key.
        sizes: Its shape.
        holds: What it holds; ``parts`` of a dict.
        count: How many ids there are, or how long a row is.
        dtype: Name of the dtype of numbers.
        why: What it was read from, for people.
        names: Names of its axes where something said them; an empty one where nothing did.
        fixed: Whether the user said it, so that only sizes of named axes may change.
        parts: The entries of a dict.
        made: A value that the file itself makes, which is passed as it is.
        as_numbers: Whether ids are passed as floating point, as in tables that hold numbers too.
    """

    name: str
    sizes: tuple[int, ...] = (BATCH, 13)
    holds: Holds = "numbers"
    count: int = 0
    dtype: str = "float32"
    why: str = ""
    names: tuple[str, ...] = ()
    fixed: bool = False
    parts: tuple[Argument, ...] = ()
    made: Any = None
    as_numbers: bool = False

    @property
    def is_said(self) -> bool:
        """Whether its shape is written somewhere, rather than guessed."""
        return (
            self.why not in ("", "a guess", "its name", "a graph's nodes")
            and self.holds != "parts"
            and " of the model" not in self.why
        )

    @property
    def is_free(self) -> bool:
        """Whether its shape was neither said by the user nor by an example."""
        return not self.fixed and self.made is None

    @property
    def is_list(self) -> bool:
        """Whether its parts are those of a list rather than of a dict."""
        return bool(self.parts) and all(part.name.isdigit() for part in self.parts)

    @property
    def key(self) -> Any:
        """What tells one guess from another."""
        kind = self.holds, self.count, self.dtype, self.as_numbers
        return self.name, self.sizes, *kind, tuple(part.key for part in self.parts), id(self.made)

    def with_axes(self, count: int, offset: int = 0) -> Argument:
        """The guess with another number of axes.

        Args:
            count: How many.
            offset: Added to primes, so that two arguments differ.
        """
        sizes = default_sizes(count)
        if self.holds != "numbers" and count == 2:
            sizes = (BATCH, 11)
        if offset and count <= 3:
            sizes = tuple(size if place == 0 else size + offset for place, size in enumerate(sizes))
        return replace(self, sizes=sizes, names=(), made=None)

    def with_size(self, axis: int, size: int) -> Argument:
        """The guess with another size along one axis."""
        sizes = list(self.sizes)
        sizes[axis] = size
        return replace(self, sizes=tuple(sizes), made=None)

    def make(self, rng: torch.Generator) -> Any:
        """The value to pass."""
        if self.made is not None:
            return self.made
        if self.is_list:
            return tuple(part.make(rng) for part in self.parts)
        if self.holds == "parts":
            return {part.name: part.make(rng) for part in self.parts}
        if self.holds == "ids":
            ids = torch.randint(max(1, self.count), self.sizes, generator=rng)
            if self.count > 1 and ids.numel():
                ids.view(-1)[-1] = self.count - 1  # the largest that is known to work
            return ids.float() if self.as_numbers else ids
        if self.holds == "bools":
            return torch.ones(self.sizes, dtype=torch.bool)
        if self.holds == "ones":
            return torch.ones(self.sizes, dtype=_dtype(self.dtype))
        if self.holds == "lengths":
            return torch.full(self.sizes, self.count, dtype=torch.long)
        return torch.randn(self.sizes, generator=rng).to(_dtype(self.dtype))

    @classmethod
    def like(cls, name: str, value: Any, why: str) -> Argument:
        """The guess that a value is right as it is."""
        if isinstance(value, (dict, tuple, list)):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            parts = tuple(cls.like(str(key), item, why) for key, item in items)
            return cls(name, (), "parts", why=why, parts=parts, made=value)
        assert isinstance(value, Tensor)
        sizes = tuple(value.shape)
        if value.dtype == torch.bool:
            return cls(name, sizes, "bools", why=why, made=value)
        if not value.is_floating_point() and not value.is_complex():
            count = int(value.max()) + 1 if value.numel() else 1
            return cls(name, sizes, "ids", count, why=why, made=value)
        return cls(name, sizes, dtype=str(value.dtype).removeprefix("torch."), why=why, made=value)


def default_sizes(axes: int) -> tuple[int, ...]:
    """The shape that is tried first for a number of axes."""
    return _BY_AXES.get(axes, (BATCH, *range(5, 4 + axes)))


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name)
    assert isinstance(found, torch.dtype)
    return found
