"""What is passed for one parameter of forward while a call that works is looked for, and what a user says of one: ``x=batch,3,64,64``."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from harness.tasks.keys import InputKeys

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
        parts: The entries of a dict, of a list, or of an object.
        is_object: Whether the parts are read as attributes, as of a graph with ``data.x``.
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
    is_object: bool = False

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
        kind = self.holds, self.count, self.dtype, self.as_numbers, self.is_object
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
            made = {part.name: part.make(rng) for part in self.parts}
            return SimpleNamespace(**made) if self.is_object else made
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


_VALUES = ("ids", "range", "mask_of", "lengths_of", "index_of", "one_of")
_EXPECTED = (
    "expected NAME=AXES or NAME=AXES:VALUES, such as x=batch,3,64,64 or ids=batch,seq:ids=1000 or mask=batch,seq:mask_of=seq"
)


@dataclass(frozen=True)
class GivenInput:
    """One argument as the user said it.

    Attributes:
        name: The parameter of forward, dotted for the entry of a dict, or of a list (``features.0``).
        keys: As the config declares it under ``inputs``.
    """

    name: str
    keys: dict[str, Any]

    @classmethod
    def parse(cls, text: str) -> GivenInput:
        """Reads the option.

        Raises:
            ValueError: It is written otherwise.
        """
        name, equals, rest = text.partition("=")
        parameter, *entries = name.split(".")
        if not equals or not parameter.isidentifier() or not all(part.isidentifier() or part.isdigit() for part in entries):
            raise ValueError(f"{_EXPECTED}; got {text!r}")
        shape, *more = rest.split(":")
        axes = [_axis(part.strip(), text) for part in shape.split(",") if part.strip()]
        keys: dict[str, Any] = {"axes": axes}
        values: dict[str, Any] = {}
        for part in more:
            key, _, value = part.partition("=")
            if key in _VALUES:
                values[key] = _listed(value) if key in ("range", "one_of") else _plain(value)
                if key == "ids" and "," in value:
                    values[key] = _listed(value)
            elif key in ("pad", "inverted"):
                values[key] = _plain(value) if value else True
            elif key in ("dtype", "optional"):
                keys[key] = _plain(value) if value else True
            else:
                raise ValueError(
                    f"no values {key!r} in {text!r}; there are {', '.join(_VALUES)}, pad, inverted, dtype and optional"
                )
        if values:
            keys["values"] = values
        try:
            InputKeys.model_validate(keys)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"`{first['loc'][-1]}` of {text!r}: {first['msg']}") from None
        return cls(name, keys)

    def argument(self) -> Argument:
        """The guess that follows, whose fixed sizes no search changes."""
        axes, values = self.keys["axes"], self.keys.get("values", {})
        usual = default_sizes(len(axes))
        sizes = tuple(axis if isinstance(axis, int) else _first_size(axis, usual[place]) for place, axis in enumerate(axes))
        names = tuple("" if isinstance(axis, int) else axis for axis in axes)
        holds: Holds = "numbers"
        count = 0
        if "ids" in values:
            holds, count = "ids", min(values["ids"]) if isinstance(values["ids"], list) else values["ids"]
        elif "index_of" in values:
            holds, count = "ids", 1
        elif "mask_of" in values:
            holds = "bools" if self.keys.get("dtype") == "bool" else "ones"
        elif "lengths_of" in values:
            holds, count = "lengths", _first_size(values["lengths_of"], default_sizes(3)[1])
        dtype = self.keys.get("dtype") or ("int64" if holds == "ones" else "float32")
        as_numbers = holds == "ids" and dtype == "float32" and "dtype" in self.keys
        return Argument(self.name, sizes, holds, count, dtype, "as given", names, fixed=True, as_numbers=as_numbers)


def _axis(text: str, whole: str) -> int | str:
    if text.isdigit():
        return int(text)
    if not text.isidentifier():
        raise ValueError(f"{text!r} is not an axis: a number or a name; {_EXPECTED}; got {whole!r}")
    return text


def _first_size(name: str, usual: int) -> int:
    return {"batch": BATCH, "height": IMAGE_SIDE, "width": IMAGE_SIDE}.get(name, usual)


def _plain(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _listed(text: str) -> list[Any]:
    return [_plain(part) for part in text.strip("[]").split(",")]
