"""With which arguments each module was made, and on which line."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import FrameType
from typing import Any

from torch import nn

from harness.user_code import is_written_here

_COPIES = ("copyreg", "copy", "pickle", "torch.serialization", "torch._utils")
"""Modules that make an object without its arguments."""


def place_of(frame: FrameType | None) -> str:
    """The nearest line of the user's own code, as ``train.py:12``; of a package where there is none."""
    first = frame
    while frame is not None and not is_written_here(frame.f_code.co_filename):
        frame = frame.f_back
    frame = frame or first
    if frame is None:
        return ""
    return f"{frame.f_code.co_filename.replace(chr(92), '/').rpartition('/')[2]}:{frame.f_lineno}"


@dataclass(frozen=True)
class Construction:
    """How a module was made.

    Attributes:
        module: The module, which is kept: what is known of it goes by its identity.
        args: The arguments in order.
        kwargs: Those by name.
        place: The line.
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    place: str


class Constructions:
    """How modules were made, once ``install`` was called."""

    def __init__(self) -> None:
        self._made: dict[int, Construction] = {}
        self.is_on = True

    def of(self, module: nn.Module) -> Construction | None:
        """How a module was made; ``None`` of one that was copied or unpickled."""
        return self._made.get(id(module))

    def install(self) -> None:
        """Begins to watch: ``__new__`` is given what the outermost ``__init__`` is given, before that can change it."""
        made = self

        def new(cls: type[nn.Module], *args: Any, **kwargs: Any) -> nn.Module:
            module: nn.Module = super(nn.Module, cls).__new__(cls)
            caller = sys._getframe(1)
            if made.is_on and caller.f_globals.get("__name__") not in _COPIES:
                kept = {name: _kept(value) for name, value in kwargs.items()}
                made._made[id(module)] = Construction(module, tuple(map(_kept, args)), kept, place_of(caller))
            return module

        nn.Module.__new__ = staticmethod(new)  # type: ignore[method-assign, assignment]


def _kept(value: Any) -> Any:
    """A value as it is now: a model may empty a list that it is given."""
    if type(value) in (list, tuple):
        return type(value)(_kept(each) for each in value)
    return {key: _kept(each) for key, each in value.items()} if type(value) is dict else value
