"""A changed copy of the user's functions put in their place for the length of a block; no file is written."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType, ModuleType
from typing import Any

from harness.mending.edits import Edit, Source


class CannotChangeError(Exception):
    """The changed text is no code, or no function that runs is made of it."""


@contextmanager
def changed(source: Source, edit: Edit) -> Iterator[None]:
    """Runs a block with a change in effect, for every instance of the classes of a file and every caller of its functions.

    The code of the one function that holds the change is exchanged, and put back at the end of the block.

    Args:
        source: The file.
        edit: The change.

    Raises:
        CannotChangeError: It cannot be made.
    """
    before, text = source.around(edit)
    try:
        compiled = compile("\n" * before + text, source.file, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise CannotChangeError(str(error)) from error
    functions = [each for each in functions_of(source.file) if _holds(each.__code__, edit)]
    changes = [(each, _same(compiled, each.__code__)) for each in functions]
    usable = [(each, code) for each, code in changes if code is not None and code.co_freevars == each.__code__.co_freevars]
    if not usable:
        raise CannotChangeError("no function holds the line")
    originals = [(each, each.__code__) for each, _ in usable]
    try:
        for function, code in usable:
            function.__code__ = code
        yield
    finally:
        for function, code in originals:
            function.__code__ = code


def functions_of(file: str) -> list[FunctionType]:
    """The functions of the loaded modules of a file: its own and the methods of its classes, also under decorators that keep them."""
    modules = [module for module in list(sys.modules.values()) if getattr(module, "__file__", None) == file]
    found: dict[int, FunctionType] = {}
    for module in modules:
        for function in _inside(module, file, depth=3):
            found[id(function)] = function
    return list(found.values())


def _inside(holder: ModuleType | type, file: str, depth: int) -> Iterator[FunctionType]:
    for value in list(vars(holder).values()):
        if inspect.isclass(value):
            if depth and value.__module__ == getattr(holder, "__module__", getattr(holder, "__name__", "")):
                yield from _inside(value, file, depth - 1)
            continue
        for function in _functions_in(value):
            if function.__code__.co_filename == file:
                yield function


def _functions_in(value: Any) -> Iterator[FunctionType]:
    if isinstance(value, (staticmethod, classmethod)):
        value = value.__func__
    elif isinstance(value, functools.cached_property):
        value = value.func
    elif isinstance(value, property):
        for part in (value.fget, value.fset):
            yield from _functions_in(part)
        return
    seen = 0
    while value is not None and seen < 5:  # decorators, one around the other
        if isinstance(value, FunctionType):
            yield value
        value, seen = getattr(value, "__wrapped__", None), seen + 1


def _holds(code: CodeType, edit: Edit) -> bool:
    return code.co_firstlineno <= edit.line <= max((line for *_, line in code.co_lines() if line), default=0) or any(
        _holds(inner, edit) for inner in code.co_consts if isinstance(inner, CodeType)
    )


def _same(compiled: CodeType, code: CodeType) -> CodeType | None:
    """The code of the same function in a changed text, whose first line is where it was."""
    pending = [compiled]
    while pending:
        inner = pending.pop()
        if (inner.co_name, inner.co_firstlineno) == (code.co_name, code.co_firstlineno):
            return inner
        pending += [each for each in inner.co_consts if isinstance(each, CodeType)]
    return None
