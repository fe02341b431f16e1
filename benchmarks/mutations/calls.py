"""Every call of a torch function that a module makes in its own forward can be found, and one of them changed.

A place is a module's path, a function's name and a number: the fourth ``linear`` that ``blocks.0.attn`` itself calls. The call is changed
by a ``TorchFunctionMode`` around the module's forward, so models need no preparation, and a patched model copies and pickles like any other.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_PLAIN = ("__get__", "__len__", "__set__", "dim", "size", "numel", "stride", "is_floating_point", "is_contiguous")
"""Functions that only look at a tensor."""


@dataclass(frozen=True)
class Call:
    """A call of a torch function inside a module's forward.

    Attributes:
        owner: The module whose code makes the call.
        function: The torch function.
        args: Its positional arguments.
        kwargs: Its named ones.
    """

    owner: nn.Module
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the function."""
        return getattr(self.function, "__name__", "")

    def run(self) -> Any:
        """What the function returns."""
        return self.function(*self.args, **self.kwargs)

    def result(self) -> Tensor:
        """What a function returns that returns one tensor."""
        value: Tensor = self.run()
        return value

    def given(self, index: int, keyword: str, default: Any = None) -> Any:
        """An argument that may come by position or by name."""
        return self.args[index] if len(self.args) > index else self.kwargs.get(keyword, default)

    def but(self, index: int, keyword: str, value: Any) -> Any:
        """What the function returns with one argument replaced."""
        if len(self.args) > index:
            return self.function(*self.args[:index], value, *self.args[index + 1 :], **self.kwargs)
        return self.function(*self.args, **{**self.kwargs, keyword: value})


@dataclass(frozen=True)
class Place:
    """Where a call is made.

    Attributes:
        module: Path of the module.
        function: Name of the torch function.
        number: Which of the module's own calls of that function, from 0.
    """

    module: str
    function: str
    number: int


@dataclass(frozen=True)
class Seen:
    """A call that was seen, with what it returned."""

    place: Place
    call: Call
    result: Any


Rewrite = Callable[[Call], Any]
"""Makes a call in another way."""


class Watch(TorchFunctionMode):
    """Numbers the calls that each module makes itself, of one function or of all, and shows each to ``meet``."""

    def __init__(self, meet: Callable[[Call, int], Any], function: str = "") -> None:
        super().__init__()
        self.meet = meet
        self.function = function
        self._counts: Counter[tuple[int, str]] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Finds out whose call it is."""
        name = getattr(func, "__name__", "")
        watched = name == self.function if self.function else name not in _PLAIN
        owner = _caller() if watched else None
        if owner is None:
            return func(*args, **(kwargs or {}))
        key = (id(owner), name)
        self._counts[key] += 1
        return self.meet(Call(owner, func, tuple(args), dict(kwargs or {})), self._counts[key] - 1)


def calls_of(model: nn.Module, run: Callable[[], object]) -> list[Seen]:
    """Every call that the modules of a model make while ``run`` runs it, in order."""
    paths = {id(module): path for path, module in model.named_modules()}
    seen: list[Seen] = []

    def meet(call: Call, number: int) -> Any:
        result = call.run()
        if id(call.owner) in paths:
            seen.append(Seen(Place(paths[id(call.owner)], call.name, number), call, result))
        return result

    with Watch(meet):
        run()
    return seen


class Patched:
    """Stands in for the forward of one module.

    It is kept in the instance and holds no function of its own making, so that copies and pickles of the model work, and hold their own
    module rather than the original's.
    """

    def __init__(self, module: nn.Module, change: Callable[[nn.Module, Callable[..., Any]], Callable[..., Any]]) -> None:
        self.module = module
        self.change = change

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the changed forward."""
        return self.change(self.module, self._original)(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        """That of the forward it stands in for, from which adapters read what it takes."""
        return inspect.signature(self._original)

    @property
    def _original(self) -> Callable[..., Any]:
        return functools.partial(type(self.module).forward, self.module)


def patch(module: nn.Module, change: Callable[[nn.Module, Callable[..., Any]], Callable[..., Any]]) -> None:
    """Puts a changed forward in the place of a module's own.

    Args:
        module: The module.
        change: From the module and its forward to the forward to call instead; a picklable object.
    """
    module.forward = Patched(module, change)  # type: ignore[method-assign]


@dataclass(frozen=True)
class OneCall:
    """A forward in which one call is made in another way."""

    function: str
    number: int
    rewrite: Rewrite

    def __call__(self, module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        """The changed forward."""

        def meet(call: Call, number: int) -> Any:
            ours = call.owner is module and number == self.number
            return self.rewrite(call) if ours else call.run()

        def changed(*args: Any, **kwargs: Any) -> Any:
            with Watch(meet, self.function):
                return forward(*args, **kwargs)

        return changed


def _caller() -> nn.Module | None:
    """The module whose method, or a function called from it, is making a torch call."""
    frame = sys._getframe(2)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module):
            return owner
        frame = frame.f_back  # type: ignore[assignment]
    return None
