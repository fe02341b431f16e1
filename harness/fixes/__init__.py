"""A change of the user's code with which a failed property holds: searched near the line at fault, and tried in memory."""

from __future__ import annotations

import ast
import linecache
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any

from harness.excerpts import Fix, from_here
from harness.fixes.edits import (
    CannotChangeError,
    Change,
    Rule,
    Scope,
    Source,
    adding_to,
    all_changed,
    arguments,
    attributes_given,
    call_text,
    called,
    edits_of,
    scopes_of,
)
from harness.fixes.rules import RULES
from harness.fixes.state_rules import STATE_RULES
from harness.runtime import processor_seconds

_PROBES: list[Rule] = []
"""Changes that are no fixes, and show which line it depends on whether a property holds: at the end of this file."""

_probe = adding_to(_PROBES, is_known=False)

_FAR = 8
"""What it costs that a change is in another function of the class at fault; twice that in another class."""

_ALIKE = 2
"""What it costs more than the one before it, of several changes of a line by one rule: other lines and rules have their turn first."""

_TOGETHER = 1
"""What it costs more that a change is of several places."""

_MOST_ALIKE = 8
"""Lines on which one mistake is mended together."""

_MADE = 2
"""Lines that count for the way to where an attribute is made that the line at fault reads."""

_ABOVE = 2
"""Lines above the one at fault that count as it."""

_NEAR = 15
"""Lines beyond which a change is as far as it can be within a function."""


def find_fix(
    place: tuple[str, int] | None,
    files: Iterable[str],
    holds: Callable[[], bool],
    broken: Callable[[], frozenset[str]],
    seconds: float,
    only: frozenset[str] | None = None,
    earlier: list[Change] | None = None,
) -> tuple[Fix, bool] | None:
    """The first change with which a property holds, the most likely tried first; a usual one where there is one.

    Args:
        place: File and line at fault.
        files: The files of the model's code.
        holds: Builds the model again and asks whether the property holds.
        broken: The same of other properties: those that do not hold. None may join them.
        seconds: Processor time that the search may take.
        only: Names of the rules whose changes may be fixes; all by default.
        earlier: The fixes of other findings of this model. They are tried before all others, also when the time is up, as one mistake often
            shows in many properties; then other changes are tried on top of them, as two mistakes may show in one. A new fix joins them.

    Returns:
        The change, and whether it is a usual fix, that may be offered: another one only shows which line it depends on. ``None`` where
        none was found in that time.
    """
    started = processor_seconds()
    earlier = [] if earlier is None else earlier
    if seconds <= 0 and not earlier:
        return None
    with _running_lines(set(files)) as lines:
        if holds():  # not this time: what then fixes it is chance
            return None
    sources = {file: Source(file, "".join(linecache.getlines(file))) for file in {file for file, _ in lines}}
    was_broken: frozenset[str] | None = None
    other: Fix | None = None
    for change in _in_order(place, sources, lines, earlier):
        if processor_seconds() - started > seconds and change not in earlier:
            break
        is_known = all(edit.is_known and (only is None or edit.rule in only) for _, edit in change)
        if other is not None and not is_known:
            continue
        try:
            with all_changed(sources, change):
                also_broken = broken() if holds() else None
        except CannotChangeError:
            continue
        if also_broken is None:
            continue
        was_broken = broken() if was_broken is None and also_broken else was_broken
        if not also_broken - (was_broken or frozenset()):
            found = _as_fix(sources, change)
            if is_known:
                new = tuple(each for each in change if not any(each in known for known in earlier))
                earlier.extend([new] * bool(new))
                return found, True
            other = found
    return None if other is None else (other, False)


def _as_fix(sources: dict[str, Source], change: Change) -> Fix:
    """A change as it is told, the part that was found last first."""
    first, *rest = [
        Fix(from_here(file), edit.line, tuple(sources[file].lines[edit.line - 1 : edit.end]), edit.new) for file, edit in change
    ]
    return replace(first, also=tuple(rest))


def _in_order(
    place: tuple[str, int] | None, sources: dict[str, Source], lines: set[tuple[str, int]], earlier: Iterable[Change]
) -> Iterator[Change]:
    usable = [change for change in earlier if all(file in sources for file, _ in change)]
    yield from usable
    single = list(_ranked(place, sources, lines))
    for _, change in sorted([*single, *_repeated(single), *_on_top(single, usable)], key=lambda ranked: ranked[0]):
        yield change


def _repeated(single: Iterable[tuple[float, Change]]) -> Iterator[tuple[float, Change]]:
    """One mistake that was made on several lines, mended on all of them: the first change by each rule of each line."""
    alike: dict[str, dict[tuple[str, int], tuple[float, Change]]] = {}
    for rank, change in single:
        ((file, edit),) = change
        if edit.is_known:
            alike.setdefault(edit.rule, {}).setdefault((file, edit.line), (rank, change))
    for found in alike.values():
        if 1 < len(found) <= _MOST_ALIKE:
            nearest_first = sorted(found.values(), key=lambda ranked: ranked[0])
            yield nearest_first[0][0] + _TOGETHER, tuple(each for _, change in nearest_first for each in change)


def _on_top(single: Iterable[tuple[float, Change]], earlier: Iterable[Change]) -> Iterator[tuple[float, Change]]:
    """Changes together with the fix of another finding, for what two mistakes break."""
    for rank, change in single:
        ((file, edit),) = change
        for known in earlier if edit.is_known else ():
            if not any(file == there and edit.line <= each.end and each.line <= edit.end for there, each in known):
                yield rank + _TOGETHER, (*change, *known)


def _ranked(
    place: tuple[str, int] | None, sources: dict[str, Source], lines: set[tuple[str, int]]
) -> Iterator[tuple[float, Change]]:
    """The changes of the lines that ran, with how unlikely each is to be the right one."""
    for file, source in sources.items():
        try:
            scopes = scopes_of(source)
        except SyntaxError:
            continue
        home = next((scope for scope in scopes if place and place[0] == file and _has(scope.function, place[1])), None)
        # A finding on another method than forward says that forward does what it should.
        farther = 1 if home is None or home.function.name == "forward" or home.is_init else 2
        made = _read_near(source, place[1]) if home is not None and place else frozenset[str]()
        for scope in scopes:
            far = farther * (0 if scope is home else _FAR if home and scope.owner is home.owner else 2 * _FAR)
            alike = Counter[tuple[int, str]]()
            for edit in edits_of(scope, (*RULES, *STATE_RULES, *_PROBES)):
                if any((file, line) in lines for line in range(edit.line, edit.end + 1)):
                    away = abs(edit.line - place[1]) if scope is home and place else _NEAR / 2
                    if scope.is_init and home and scope.owner is home.owner and _gives(source.lines[edit.line - 1], made):
                        away = _MADE - far
                    yield 2 * edit.cost + far + min(away, _NEAR) + _ALIKE * alike[edit.line, edit.rule], ((file, edit),)
                    alike[edit.line, edit.rule] += 1


def _read_near(source: Source, line: int) -> frozenset[str]:
    """The attributes that a line, and those just above it, read."""
    return frozenset(re.findall(r"\bself\.(\w+)", "\n".join(source.lines[max(line - 1 - _ABOVE, 0) : line])))


def _gives(line: str, attributes: frozenset[str]) -> bool:
    """Whether a line gives one of some attributes its value."""
    given = re.match(r"""\s*self\.(?:(\w+)\s*(?::[^=]+)?=[^=]|register_buffer\(["'](\w+))""", line)
    return given is not None and (given[1] or given[2]) in attributes


def _has(function: ast.AST, line: int) -> bool:
    return function.lineno <= line <= (getattr(function, "end_lineno", 0) or 0)  # type: ignore[attr-defined]


@contextmanager
def _running_lines(files: set[str]) -> Iterator[set[tuple[str, int]]]:
    """Notes the lines of some files that run in a block."""
    seen = set[tuple[str, int]]()

    def inside(frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line":
            seen.add((frame.f_code.co_filename, frame.f_lineno))
        return inside

    def enter(frame: FrameType, _event: str, _argument: Any) -> Any:
        return inside if frame.f_code.co_filename in files else None

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        yield seen
    finally:
        sys.settrace(before)


@_probe("another switch", 6)
def _constant_switch(node: ast.AST, scope: Scope) -> Iterator[str]:
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and type(node.value.value) is bool:
        if "checkpoint" in scope.text(node):
            return  # without checkpointing whatever is wrong with it is gone
        yield f"{' = '.join(scope.text(each) for each in node.targets)} = {not node.value.value}"


@_probe("the switch that is kept", 6)
def _kept_switch(node: ast.AST, scope: Scope) -> Iterator[str]:
    is_asked = isinstance(scope.source.parents.get(node), (ast.If, ast.IfExp))
    if is_asked and scope.owner is not None and isinstance(node, ast.Constant) and type(node.value) is bool:
        for method in scope.owner.body:
            for name, value in attributes_given(method).items() if isinstance(method, ast.FunctionDef) else ():
                if isinstance(value, ast.Constant) and type(value.value) is bool:
                    yield f"self.{name}"


@_probe("without the condition", 6)
def _without_condition(node: ast.AST, scope: Scope) -> Iterator[str]:
    if isinstance(node, ast.If) and not node.orelse:
        indent, inner = " " * node.col_offset, " " * node.body[0].col_offset
        body = scope.lines_of(node.body)
        yield f"\n{indent}".join(line.removeprefix(inner) for line in body)
    if isinstance(node, (ast.DictComp, ast.ListComp, ast.SetComp)) and any(each.ifs for each in node.generators):
        generators = " ".join(f"for {scope.text(each.target)} in {scope.text(each.iter)}" for each in node.generators)
        if isinstance(node, ast.DictComp):
            yield f"{{{scope.text(node.key)}: {scope.text(node.value)} {generators}}}"
        else:
            yield f"[{scope.text(node.elt)} {generators}]"


@_probe("one of two", 6)
def _one_of_two(node: ast.AST, scope: Scope) -> Iterator[str]:
    if isinstance(node, ast.IfExp):
        yield scope.text(node.body)
        yield scope.text(node.orelse)
    if isinstance(node, ast.AugAssign):
        yield f"{scope.text(node.target)} = {scope.text(node.value)}"
    if isinstance(node, ast.Call) and any(word.arg == "reduction" for word in node.keywords):
        yield scope.text(node).replace('"sum"', '"mean"').replace("'sum'", "'mean'")


@_probe("what was left out", 7)
def _left_out(node: ast.AST, scope: Scope) -> Iterator[str]:
    if not isinstance(node, ast.Call) or called(node) in ("isinstance", "len", "range", "super", "print"):
        return
    if scope.is_init and called(node)[:1].isupper():
        return  # a layer of other sizes fits nothing, and one with a vocabulary of layers takes minutes
    args, keywords = arguments(node, scope)
    used = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    if called(node) == "checkpoint":
        for name in scope.names:
            if name not in used:
                yield call_text(node, scope, [*args, name], keywords)
    for number, value in enumerate(node.args):
        rest = args[number + 1 :]
        if isinstance(value, ast.Name) and value.id in scope.names:
            others = [name for name in scope.names if name != value.id][:6]
            for other in [*others, f"{value.id}[0]", *(["None"] if number else [])]:
                yield call_text(node, scope, [*args[:number], other, *rest], keywords)
        elif isinstance(value, ast.Constant) and value.value is None and scope.owner is not None:
            for name in ("bias", "mask"):
                found = [t for t in _attributes(scope.owner) if t.endswith(f".{name}")]
                found += [
                    f"{each.removesuffix('.weight')}.{name}" for each in _attributes(scope.owner) if each.endswith(".weight")
                ]
                for other in dict.fromkeys(found[:4]):
                    yield call_text(node, scope, [*args[:number], other, *rest], keywords)


def _attributes(owner: ast.ClassDef) -> list[str]:
    found = (ast.unparse(node) for node in ast.walk(owner) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load))
    return list(dict.fromkeys(text for text in found if text.startswith("self.")))


@_probe("another number", 9)
def _number(node: ast.AST, scope: Scope) -> Iterator[str]:
    if isinstance(node, ast.Constant) and type(node.value) is float and node.value in (0.0, 1.0):
        yield f"{1.0 - node.value}"
    if isinstance(node, ast.Constant) and type(node.value) is int and abs(node.value) < 100:
        yield from (f"{node.value + 1}", f"{node.value - 1}" if node.value > 0 else "(-1)")
        if node.value == 1:
            yield from scope.parameters[:4]
        if isinstance(scope.source.parents.get(node), ast.Assign):
            yield from [name for name in scope.names if name not in scope.parameters][:4]


@_probe("without it", 8)
def _without(node: ast.AST, scope: Scope) -> Iterator[str]:
    if isinstance(node, (ast.Expr, ast.Assign, ast.AugAssign)) and not (
        isinstance(node, ast.Expr) and (isinstance(node.value, ast.Constant) or called(node.value) == "__init__")
    ):
        yield "pass"
