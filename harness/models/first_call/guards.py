"""The condition that a model checks before it raises: an ``assert``, or the ``if`` around a ``raise``, with both sides as they were."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType, FrameType, TracebackType
from typing import Any

from torch import Tensor

from harness.models.first_call.argument import Argument
from harness.models.first_call.guesses import Guesses, Repairs
from harness.models.first_call.watching import sources_of

_MOST_LENGTH = 8
"""Items of a list of tensors that are tried at most."""


@dataclass(frozen=True)
class _Side:
    """One side of a comparison.

    Attributes:
        node: The expression.
        frame: Where it is evaluated.
    """

    node: ast.expr
    frame: FrameType

    @property
    def value(self) -> Any:
        """Its value; ``None`` where it calls more than ``len``, ``size`` and ``dim``, or is neither a whole number nor several."""
        if any(isinstance(inner, ast.Call) and not _is_harmless(inner) for inner in ast.walk(self.node)):
            return None
        try:
            code = compile(ast.Expression(self.node), "guard", "eval")
            found: Any = eval(code, self.frame.f_globals, dict(self.frame.f_locals))
        except Exception:  # whatever the model's own expression raises
            return None
        if isinstance(found, (tuple, list)) and all(type(item) is int for item in found):
            return tuple(found)
        return found if type(found) is int else None

    @property
    def sources(self) -> frozenset[str]:
        """The arguments that the tensors in it were made of."""
        names = [inner.id for inner in ast.walk(self.node) if isinstance(inner, ast.Name)]
        tensors = (self.frame.f_locals.get(name) for name in names)
        return frozenset().union(*(sources_of(tensor) for tensor in tensors if isinstance(tensor, Tensor)))

    @property
    def counts_axes(self) -> bool:
        """Whether it is a number of axes: ``x.ndim``, ``x.dim()``, ``len(x.shape)``."""
        if isinstance(self.node, ast.Attribute):
            return self.node.attr == "ndim"
        if not isinstance(self.node, ast.Call):
            return False
        if isinstance(self.node.func, ast.Attribute):
            return self.node.func.attr == "dim"
        return bool(self.node.args) and isinstance(_Side(self.node.args[0], self.frame).value, tuple)

    @property
    def counted(self) -> str:
        """The argument of which it is the length, as in ``len(features)``; empty where it is none."""
        is_length = isinstance(self.node, ast.Call) and isinstance(self.node.func, ast.Name) and self.node.func.id == "len"
        of = self.node.args[0] if is_length and isinstance(self.node, ast.Call) and self.node.args else None
        value = self.frame.f_locals.get(of.id) if isinstance(of, ast.Name) else None
        if isinstance(value, (tuple, list)) and value and isinstance(value[0], Tensor):
            return next(iter(sources_of(value[0])), "").rpartition(".")[0]
        return next(iter(sources_of(value)), "") if isinstance(value, Tensor) and len(sources_of(value)) == 1 else ""

    @property
    def axis(self) -> tuple[str, int] | None:
        """The argument and its axis of which it is the size, as in ``x.shape[1]`` and ``x.size(1)``."""
        node = self.node
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute) and node.value.attr == "shape":
            owner, place = node.value.value, node.slice
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "size" and node.args:
            owner, place = node.func.value, node.args[0]
        else:
            return None
        try:
            axis = ast.literal_eval(place)
        except ValueError:
            return None
        tensor = self.frame.f_locals.get(owner.id) if isinstance(owner, ast.Name) else None
        if not isinstance(tensor, Tensor) or type(axis) is not int or len(sources_of(tensor)) != 1:
            return None
        return next(iter(sources_of(tensor))), axis


def repaired_guard(guesses: Guesses, error: BaseException, sources: frozenset[str]) -> Repairs:
    """What makes the condition hold that the model checked where it raised.

    Args:
        guesses: The arguments of the call that failed.
        error: What was raised.
        sources: The arguments that a condition speaks of which names no tensor.
    """
    frame, line = _innermost(error.__traceback__)
    guard = _guard(frame.f_code, line) if frame is not None else None
    if frame is None or guard is None:
        return
    for left, operator, right, is_wanted in _compared(*guard):
        yield from _equal(guesses, _Side(left, frame), operator, _Side(right, frame), is_wanted, sources)


def _equal(guesses: Guesses, left: _Side, operator: ast.cmpop, right: _Side, is_wanted: bool, sources: frozenset[str]) -> Repairs:
    """One side as large as the other, or by one larger or smaller where the comparison is strict."""
    if isinstance(left.node, ast.BinOp) and isinstance(left.node.op, ast.Mod):
        size, step = _Side(left.node.left, left.frame), _Side(left.node.right, left.frame)
        if type(size.value) is int and type(step.value) is int and step.value:
            yield from _sized(guesses, size, max(1, -(-size.value // step.value)) * step.value, sources)
        return
    one, other = left.value, right.value
    if isinstance(operator, (ast.In, ast.NotIn)):
        for wanted in other if type(one) is int and isinstance(other, tuple) else ():
            yield from _sized(guesses, left, wanted, sources)
    elif isinstance(one, tuple) and isinstance(other, tuple):
        yield from _shaped(guesses, left, one, other, sources)
        yield from _shaped(guesses, right, other, one, sources)
    elif type(one) is int and type(other) is int:
        above, below = _strictly(operator, is_wanted)
        yield from _sized(guesses, left, other + above - below, sources)
        yield from _sized(guesses, right, one - above + below, sources)


def _sized(guesses: Guesses, side: _Side, wanted: int, sources: frozenset[str]) -> Repairs:
    """Another size, number of axes, or number of items for what one side measures."""
    got, made_of = side.value, side.sources or sources
    if got == wanted or wanted < 0:
        return
    if side.counts_axes:
        yield from guesses.with_axes(made_of, wanted - got)
    elif side.counted and 1 <= wanted <= _MOST_LENGTH:
        yield from guesses.as_list(side.counted, wanted)
    elif (place := side.axis) is not None:
        argument = guesses.at(place[0])
        if argument is not None and not argument.fixed and _size_at(argument, place[1]) == got:
            yield 0, guesses.put(place[0], argument.with_size(place[1], wanted))
            return
    yield from guesses.resized(made_of, got, wanted)


def _size_at(argument: Argument, axis: int) -> int | None:
    return argument.sizes[axis] if -len(argument.sizes) <= axis < len(argument.sizes) else None


def _shaped(guesses: Guesses, side: _Side, got: tuple[int, ...], wanted: tuple[int, ...], sources: frozenset[str]) -> Repairs:
    """Other sizes for a shape, or a part of one."""
    made_of = side.sources
    if not made_of:
        return
    if len(got) != len(wanted):
        yield from guesses.with_axes(made_of, len(wanted) - len(got))
        return
    for path in sorted(made_of):
        argument = guesses.at(path)
        if argument is None or argument.fixed or not got:
            continue
        start = next((at for at in reversed(range(len(argument.sizes))) if argument.sizes[at : at + len(got)] == got), None)
        if start is not None:
            changed = argument
            for place, size in enumerate(wanted):
                changed = changed.with_size(start + place, size) if size > 0 else changed
            yield 0, guesses.put(path, changed)
            continue
        for one, other in zip(got, wanted, strict=True):
            yield from guesses.resized([path], one, other)


def _strictly(operator: ast.cmpop, is_wanted: bool) -> tuple[int, int]:
    """By how much the left side has to be above, or below, the right one."""
    above = isinstance(operator, ast.Gt) if is_wanted else isinstance(operator, ast.LtE)
    below = isinstance(operator, ast.Lt) if is_wanted else isinstance(operator, ast.GtE)
    return int(above), int(below)


def _compared(test: ast.expr, is_wanted: bool) -> Iterator[tuple[ast.expr, ast.cmpop, ast.expr, bool]]:
    """The comparisons of a condition that do not hold as they should, as far as their text says, each with whether it should be true."""
    if isinstance(test, ast.BoolOp):
        for part in test.values:
            yield from _compared(part, is_wanted)
    elif isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        yield from _compared(test.operand, not is_wanted)
    elif isinstance(test, ast.Compare):
        for left, operator, right in zip([test.left, *test.comparators], test.ops, test.comparators, strict=False):
            if isinstance(operator, (ast.NotIn, ast.NotEq) if is_wanted else (ast.In, ast.Eq)):
                continue  # what must not be: no size follows
            yield left, operator, right, is_wanted
    elif isinstance(test, ast.Call) and "divisible" in ast.unparse(test.func) and len(test.args) == 2:
        yield ast.BinOp(test.args[0], ast.Mod(), test.args[1]), ast.Eq(), ast.Constant(0), is_wanted


def _guard(code: CodeType, line: int) -> tuple[ast.expr, bool] | None:
    """The condition in whose statement a line is, and whether it should have held."""
    tree = _parsed(code)
    if tree is None:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert) and node.lineno <= line <= (node.end_lineno or node.lineno):
            return node.test, True
        if isinstance(node, ast.If):
            for body, is_wanted in ((node.body, False), (node.orelse, True)):
                if any(isinstance(inner, ast.Raise) and inner.lineno <= line <= (inner.end_lineno or 0) for inner in body):
                    return node.test, is_wanted
    return None


@lru_cache(maxsize=64)
def _parsed(code: CodeType) -> ast.AST | None:
    """A function's tree, with the lines of its file."""
    try:
        lines, first = inspect.getsourcelines(code)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    return ast.increment_lineno(tree, first - 1)


def _is_harmless(node: ast.Call) -> bool:
    return (isinstance(node.func, ast.Attribute) and node.func.attr in ("size", "dim")) or (
        isinstance(node.func, ast.Name) and node.func.id in ("len", "tuple", "list")
    )


def _innermost(trace: TracebackType | None) -> tuple[FrameType | None, int]:
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return (trace.tb_frame, trace.tb_lineno) if trace is not None else (None, 0)
