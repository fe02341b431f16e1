"""The line of the user's code that gave a row one of its values."""

from __future__ import annotations

import ast
import linecache
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

from harness.user_code import is_written_here
from harness.written_in import short_name


def line_of_value(make: Callable[[], object], field: str, order: Sequence[str]) -> str:
    """The line that gave a row a value, ``data.py, line 12``; where it only hands on a variable, the one that set that before.

    Args:
        make: Makes the row, or a batch with it, once more.
        field: Name of the value; empty where it is not there.
        order: Names of the values of a row, as a tuple has them.

    Returns:
        The line of the outermost ``__getitem__`` of the user's, or else of what else returned or yielded last; empty where none did.
    """
    try:
        with _returns() as returns:
            make()
    except Exception:  # it may be random, or gone
        return ""
    items = [each for each in returns if each[0].co_name == "__getitem__"]
    for code, line in reversed(items or returns):
        return f"{short_name(code.co_filename)}, line {_line_in(code, line, field, order)}"
    return ""


@contextmanager
def _returns() -> Iterator[list[tuple[CodeType, int]]]:
    """A block in which is noted where functions of the user's return or yield, the outermost last."""
    found, before = list[tuple[CodeType, int]](), sys.getprofile()

    def note(frame: FrameType, event: str, _value: Any) -> None:
        if event == "return" and is_written_here(frame.f_code.co_filename):
            found.append((frame.f_code, frame.f_lineno))

    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(before)


def _line_in(code: CodeType, line: int, field: str, order: Sequence[str]) -> int:
    """The line of a value in the statement that returns it, or of the last assignment to the variable that stands there."""
    try:
        tree = ast.parse("".join(linecache.getlines(code.co_filename)))
    except SyntaxError:
        return line
    functions = [each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef) and each.name == code.co_name]
    inside = [each for each in functions if each.lineno <= line <= (each.end_lineno or 0)]
    nodes = (
        sorted((node for node in ast.walk(inside[-1]) if hasattr(node, "lineno")), key=lambda node: node.lineno) if inside else []
    )
    given = [
        each.value
        for each in nodes
        if isinstance(each, (ast.Return, ast.Yield)) and each.lineno <= line <= (each.end_lineno or 0)
    ]
    value = _part(given[-1], field, order) if given and field else None
    for _ in range(2):  # a row that is put together in a variable, and a value that is
        if not isinstance(value, ast.Name):
            break
        sets = [
            each for each in nodes if isinstance(each, ast.Assign) and (each.end_lineno or 0) < line and _sets(each, value.id)
        ]
        if not sets:
            break
        line, value = sets[-1].lineno, _part(sets[-1].value, field, order)
        given = [sets[-1].value]
    return line if value is None or value is given[-1] else value.lineno


def _sets(statement: ast.Assign, name: str) -> bool:
    return any(isinstance(node, ast.Name) and node.id == name for target in statement.targets for node in ast.walk(target))


def _part(value: ast.expr | None, field: str, order: Sequence[str]) -> ast.expr | None:
    """The expression of a field in that of a row; the whole where it is not seen."""
    if isinstance(value, ast.Dict):
        named = {key.value: each for key, each in zip(value.keys, value.values, strict=True) if isinstance(key, ast.Constant)}
        return named.get(field, value)
    if isinstance(value, ast.Call) and value.keywords:
        return next((word.value for word in value.keywords if word.arg == field), value)
    if isinstance(value, ast.Tuple) and field in order and len(value.elts) == len(order):
        return value.elts[order.index(field)]
    return value
