"""The lines of the user's code that are seen to do something: draw, write into a tensor, switch a mode, load, make a parameter."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from harness.compat import OpOverload, TorchDispatchMode, memory_key, parameters_of, tree_leaves, without_compiler
from harness.evidence import WHOLE
from harness.properties.places import forward_of, shown_place, users_frame, users_line
from harness.user_code import is_written_here

_DRAWS = torch.Tag.nondeterministic_seeded
_SETS_DATA: Any = Tensor.data.__set__  # type: ignore[attr-defined]
_SETS_TRAINED: Any = Tensor.requires_grad.__set__  # type: ignore[attr-defined]


def drawing_line(run: Callable[[], object]) -> str:
    """The user's line that first draws from torch's global random state; empty where no operator does.

    Args:
        run: Runs the model.
    """
    return _line_of(run, lambda func, _args, kwargs: _DRAWS in func.tags and kwargs.get("generator") is None)


def writing_line(run: Callable[[], object], tensor: Tensor) -> str:
    """The user's line that first writes into a tensor or a view of it; empty where no operator does.

    Args:
        run: Runs the model.
        tensor: The tensor.
    """
    return _line_of(run, lambda func, args, kwargs: any(map(partial(_share, tensor), written_by(func, args, kwargs))))


def operator_line(run: Callable[[], object], names: Collection[str]) -> str:
    """The user's line that first runs an operator of some names, such as ``linalg_svd``; empty where none does.

    Args:
        run: Runs the model.
        names: The names, with or without the underscore of those that are torch's own.
    """
    wanted = {name.strip("_") for name in names}
    return _line_of(run, lambda func, _args, _kwargs: _name_of(func) in wanted)


def last_operator_line(run: Callable[[], object], names: Collection[str]) -> str:
    """The user's line that last runs an operator of some names, given without underscores; empty where none does.

    Args:
        run: Runs the model.
        names: The names.
    """
    return next(iter(reversed(_lines_of(run, lambda func, _args, _kwargs: _name_of(func) in names))), "")


def _name_of(func: OpOverload) -> str:
    return func.name().partition("::")[2].partition(".")[0].strip("_")


def largest_line(run: Callable[[], object]) -> str:
    """The user's line that makes the largest tensor, the first of several; empty where a library's does.

    Args:
        run: Runs the model.
    """
    with Writes() as writes:
        run()
    return max(writes.sizes.items(), key=lambda pair: pair[1], default=("", 0))[0]


@without_compiler
class _Watch(TorchDispatchMode):
    """Notes the lines of the operators that do something."""

    supports_higher_order_operators = True  # they are let through: what they call comes by one by one

    def __init__(self, does: Callable[[OpOverload, tuple[Any, ...], dict[str, Any]], bool]) -> None:
        super().__init__()
        self.does = does
        self.lines: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if isinstance(func, OpOverload) and self.does(func, args, kwargs or {}):
            self.lines.append(users_line(sys._getframe(1)))
        return func(*args, **(kwargs or {}))


def _line_of(run: Callable[[], object], does: Callable[[OpOverload, tuple[Any, ...], dict[str, Any]], bool]) -> str:
    return next(iter(_lines_of(run, does)), "")


def _lines_of(run: Callable[[], object], does: Callable[[OpOverload, tuple[Any, ...], dict[str, Any]], bool]) -> list[str]:
    watch = _Watch(does)
    try:
        with watch:
            run()
    except Exception:  # the model runs without the watch; torch.compile and what uses it refuse to run under one
        return []
    return watch.lines


def written_by(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """The tensors that an operator writes into."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[place] if place < len(args) else kwargs.get(argument.name)
            yield from (leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor))


def _share(left: Tensor, right: Tensor) -> bool:
    return memory_key(left) == memory_key(right)


@contextmanager
def lines_that_load_in_part() -> Iterator[list[str]]:
    """A block in which the user's lines are noted whose ``load_state_dict`` finds parameters missing, and does not say so."""
    found, load = list[str](), nn.Module.load_state_dict

    def watched(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        result = load(self, *args, **kwargs)
        if getattr(result, "missing_keys", None) and (place := users_line(sys._getframe(1))):
            found.append(place)
        return result

    with patch.object(nn.Module, "load_state_dict", watched):
        yield found


def last_written_line(run: Callable[[], object], tensors: Iterable[Tensor]) -> str:
    """The user's line that last wrote into one of some tensors, of the last that any did; empty where no operator does.

    Args:
        run: Does so.
        tensors: The tensors.
    """
    with Writes() as writes:
        run()
    return next(filter(None, map(writes.line_of, reversed(list(tensors)))), "")


def switching_line(run: Callable[[], object], model: nn.Module, path: str = "") -> str:
    """The user's line that first switches a module to train or eval mode; empty where none does.

    Args:
        run: Runs the model.
        model: The model.
        path: Of the module; the model itself by default.
    """
    found, switch = list[str](), nn.Module.train
    module = model if path in ("", WHOLE) else model.get_submodule(path)

    def watched(self: nn.Module, mode: bool = True) -> nn.Module:
        frame = users_frame(sys._getframe(1), is_written_here) if module in self.modules() else None
        if frame is not None:  # an engine switches modes itself
            found.append(shown_place(frame.f_code.co_filename, frame.f_lineno))
        return switch(self, mode)

    with patch.object(nn.Module, "train", watched):
        run()
    return next(iter(found), "")


class _Makers(TorchFunctionMode):
    """Notes the lines that make a tensor of another kind of tensors that are of the right one, or of none.

    Args:
        is_right: Whether a tensor is of the right kind.
        mend: Makes it one, of what some lines make.
        mended: Those lines.
    """

    def __init__(self, is_right: Callable[[Tensor], bool], mend: Callable[[Tensor], Tensor], mended: Collection[str]) -> None:
        super().__init__()
        self.lines = dict[str, None]()
        self._is_right, self._mend, self._mended = is_right, mend, mended

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        if isinstance(result, Tensor) and not self._is_right(result) and all(map(self._is_right, given)):
            if place := users_line(sys._getframe(1)):
                self.lines[place] = None
            if place in self._mended:
                return self._mend(result)
        return result


_MOST_MENDED = 4
"""Lines that are tried one by one."""


def making_line(run: Callable[[], object], is_right: Callable[[Tensor], bool], mend: Callable[[Tensor], Tensor]) -> str:
    """The user's line that makes a tensor of the wrong dtype or device, which raises where it is used: with the right one the model runs.

    Args:
        run: Runs the model.
        is_right: Whether a tensor is of the right dtype or on the right device.
        mend: Gives it that.
    """

    def raises(mode: _Makers) -> bool:
        try:
            with mode:
                run()
        except Exception:  # whatever the model raises
            return True
        return False

    makers = _Makers(is_right, mend, ())
    if not raises(makers):
        return ""
    lines = list(makers.lines)
    alone = (line for line in lines[:_MOST_MENDED] if not raises(_Makers(is_right, mend, (line,))))
    return next(alone, "") or (lines[0] if lines and not raises(_Makers(is_right, mend, lines)) else "")


class LinesOfParameters:
    """The lines that make each parameter of a model, last write into it, put another one in its place, and freeze it.

    Args:
        build: Makes the model once more.
    """

    def __init__(self, build: Callable[[], nn.Module]) -> None:
        self._replaced: dict[tuple[int, str], str] = {}
        self._shared: dict[int, str] = {}
        self._frozen: dict[int, str] = {}
        register = nn.Module.register_parameter

        def watched(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
            if parameters_of(module).get(name) is not None:
                self._replaced[id(module), name] = users_line(sys._getframe(1))
            register(module, name, param)

        with Writes() as writes, Settings(self._shared, self._frozen), patch.object(nn.Module, "register_parameter", watched):
            self._model = build()
        self._writes = writes

    def written(self, path: str) -> str:
        """The user's line that last wrote into a parameter, or that made it; empty where it cannot be told."""
        try:
            parameter = self._model.get_parameter(path)
        except AttributeError:  # another architecture each time
            return ""
        return self._writes.line_of(parameter)

    def written_apart(self, path: str) -> str:
        """The user's line, apart from that which makes it, that last wrote into parameters of a module, and of no other; or nothing."""
        lines = {name: self.written(name) for name, _ in self._model.named_parameters()}
        own = [line for name, line in lines.items() if name.startswith(f"{path}.") and line != forward_of(self._model, path)]
        others = {line for name, line in lines.items() if not name.startswith(f"{path}.")}
        return next((line for line in own if line not in others), "")

    def frozen(self, path: str) -> str:
        """The user's line that says whether a parameter is trained; empty where none does."""
        try:
            return self._frozen.get(id(self._model.get_parameter(path)), "")
        except AttributeError:
            return ""

    def replaced(self, path: str) -> str:
        """The user's line that last put a parameter, or other data, in the place of one that was there; empty where none did."""
        owner, _, name = path.rpartition(".")
        try:
            parameter, module = self._model.get_parameter(path), self._model.get_submodule(owner)
        except AttributeError:
            return ""
        return self._shared.get(id(parameter), "") or self._replaced.get((id(module), name), "")


@without_compiler
class Writes(TorchDispatchMode):
    """Notes the line of the last operator that made or wrote each tensor, by its memory.

    Attributes:
        places: The lines.
        sizes: How large the largest tensor is that each line made, in bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[Any, str] = {}
        self.sizes: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        views = isinstance(func, OpOverload) and func.is_view
        written = list(written_by(func, args, kwargs or {})) if isinstance(func, OpOverload) else []
        made = [] if views else [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        place = users_line(sys._getframe(1)) if written or made else ""
        self.sizes[place] = max([self.sizes.get(place, 0), *(leaf.nbytes for leaf in made)])
        for tensor in (*written, *made):
            # Memory is used again: what is made in it was not written by an earlier line.
            if tensor.layout is torch.strided and not tensor.is_meta and (place or any(tensor is each for each in made)):
                self.places[memory_key(tensor)] = place
        return result

    def line_of(self, tensor: Tensor) -> str:
        """The user's line that last wrote into a tensor, or that made it; empty where it is not known."""
        return self.places.get(memory_key(tensor), "") if tensor.layout is torch.strided else ""


class Settings(TorchFunctionMode):
    """Notes the lines that last gave a tensor other data, ``a.data = b.data``, and that said whether it is trained."""

    def __init__(self, shared: dict[int, str], frozen: dict[int, str]) -> None:
        super().__init__()
        self._shared, self._frozen = shared, frozen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        says_trained = func == _SETS_TRAINED or getattr(func, "__name__", "") == "requires_grad_"
        found = self._shared if func == _SETS_DATA else self._frozen if says_trained else None
        if found is not None and (place := users_line(sys._getframe(1))):
            found[id(args[0])] = place
        return func(*args, **(kwargs or {}))
