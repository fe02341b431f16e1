"""Changes of a line of code that correct known mistakes, found in a function's syntax tree; and how a change is applied for a block.

Each rule looks at one node and yields the texts that might take its place. Whether one of them fixes anything is not asked here: it is tried,
with a changed copy of the user's function in its place. No file is written.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from types import CodeType, FunctionType, ModuleType
from typing import Any

from harness.written_in import cell_of

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Edit:
    """A change of a few lines.

    Attributes:
        line: The first line that changes, counted from 1.
        end: The last one.
        new: The lines that take their place.
        rule: The name of the rule.
        cost: How far from usual the change is; the usual ones are tried first.
        is_known: Whether it is a usual fix, which may be offered. Any other only shows which line it depends on.
    """

    line: int
    end: int
    new: tuple[str, ...]
    rule: str
    cost: int
    is_known: bool = True


Change = tuple[tuple[str, Edit], ...]
"""Edits that are made together, each with its file."""


@dataclass
class Source:
    """A file of the user's.

    Attributes:
        file: The file.
        text: What it holds.
    """

    file: str
    text: str

    @cached_property
    def lines(self) -> list[str]:
        """Its lines."""
        return self.text.splitlines()

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.text)

    @cached_property
    def parents(self) -> dict[ast.AST, ast.AST]:
        """The node that each node is in."""
        return {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}

    def around(self, edit: Edit) -> tuple[int, str]:
        """The changed text of the class or function of the file that an edit is in, and how many lines stand before it."""
        for node in self.tree.body:
            first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))])
            if first <= edit.line and edit.end <= (node.end_lineno or 0):
                before, after = self.lines[first - 1 : edit.line - 1], self.lines[edit.end : node.end_lineno]
                return first - 1, "\n".join([*before, *edit.new, *after]) + "\n"
        return 0, self.after(edit).text

    @cached_property
    def _encoded(self) -> list[bytes]:
        """The lines as bytes, as a node's columns count."""
        return [line.encode() for line in self.lines]

    def segment(self, node: ast.AST) -> str:
        """The text of a node; unlike ``ast.get_source_segment`` without splitting the whole file each time, which took half of a search."""
        first, last = getattr(node, "lineno", None), getattr(node, "end_lineno", None)
        if first is None or last is None:
            return ast.unparse(node)
        begin, end = node.col_offset, node.end_col_offset  # type: ignore[attr-defined]
        if first == last:
            return self._encoded[first - 1][begin:end].decode()
        lines = [self._encoded[first - 1][begin:], *self._encoded[first : last - 1], self._encoded[last - 1][:end]]
        return b"\n".join(lines).decode()

    def with_text(self, node: ast.expr | ast.stmt, text: str) -> tuple[int, int, tuple[str, ...]]:
        """The lines of a node, first and last, and what they are with another text in its place."""
        end = node.end_lineno or node.lineno
        head = self.lines[node.lineno - 1].encode()[: node.col_offset].decode()
        tail = self.lines[end - 1].encode()[node.end_col_offset :].decode()
        return node.lineno, end, tuple(f"{head}{text}{tail}".splitlines())

    def after(self, edit: Edit) -> Source:
        """The file with an edit made."""
        return Source(self.file, "\n".join([*self.lines[: edit.line - 1], *edit.new, *self.lines[edit.end :]]) + "\n")


MASKS = ("mask", "real", "valid", "known")
"""What names of masks hold."""


@dataclass
class Scope:
    """The function that a node is in, and what is known there.

    Attributes:
        source: The file.
        function: The function.
        owner: The class whose method it is.
    """

    source: Source
    function: Function
    owner: ast.ClassDef | None = None
    text: Callable[[ast.AST], str] = field(init=False)

    def __post_init__(self) -> None:
        self.text = self.source.segment

    def operand(self, node: ast.expr) -> str:
        """The text of a node as it may stand anywhere: in parentheses, where what stands beside it could take a part of it."""
        loose = isinstance(node, (ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Lambda, ast.NamedExpr))
        return f"({self.text(node)})" if loose else self.text(node)

    def lines_of(self, statements: list[ast.stmt]) -> list[str]:
        """The lines of some statements that follow each other."""
        return self.source.lines[statements[0].lineno - 1 : statements[-1].end_lineno]

    @cached_property
    def parameters(self) -> list[str]:
        """Names of its parameters, without ``self``."""
        given = self.function.args
        names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
        return [name for name in names if name not in ("self", "cls")]

    @cached_property
    def names(self) -> list[str]:
        """Its parameters, and what it assigns."""
        stored = (n.id for n in ast.walk(self.function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
        return list(dict.fromkeys([*self.parameters, *stored]))

    @cached_property
    def masks(self) -> list[str]:
        """Parameters that say what is real."""
        return self.named(self.parameters, MASKS)

    @staticmethod
    def named(names: Iterable[str], words: Iterable[str]) -> list[str]:
        """Those names that hold one of some words."""
        return [name for name in names if any(word in name.lower() for word in words)]

    @property
    def is_init(self) -> bool:
        """Whether it sets up instances."""
        return self.function.name in ("__init__", "__post_init__", "reset_parameters", "setup")


Make = Callable[[ast.AST, Scope], Iterator[str]]
"""From a node to the texts that might take its place."""


@dataclass(frozen=True)
class Rule:
    """What one writes by mistake, and what was meant; see ``Edit`` for the other facts.

    Attributes:
        name: What it changes.
        cost: How far from usual the change is.
        is_known: Whether it is a usual fix.
        make: Makes the texts.
    """

    name: str
    cost: int
    is_known: bool
    make: Make


def adding_to(table: list[Rule], is_known: bool) -> Callable[[str, int], Callable[[Make], Make]]:
    """A decorator that adds a function to a table as a rule, given its name and its cost."""

    def rule(name: str, cost: int) -> Callable[[Make], Make]:
        def add(make: Make) -> Make:
            table.append(Rule(name, cost, is_known, make))
            return make

        return add

    return rule


def edits_of(scope: Scope, table: Iterable[Rule]) -> Iterator[Edit]:
    """Every change of a function that a rule knows."""
    table = list(table)
    seen = set[tuple[int, tuple[str, ...]]]()
    for node in ast.walk(scope.function):
        if node is scope.function or not isinstance(node, (ast.expr, ast.stmt)):
            continue
        for each in table:
            for text in each.make(node, scope):
                line, end, new = scope.source.with_text(node, text)
                if (line, new) not in seen and new != tuple(scope.source.lines[line - 1 : end]):
                    seen.add((line, new))
                    yield Edit(line, end, new, each.name, each.cost, each.is_known)


def scopes_of(source: Source) -> list[Scope]:
    """The functions of a file and the methods of its classes."""
    found = []
    for node in ast.walk(source.tree):
        if isinstance(node, Function):
            holder = source.parents.get(node)
            if not isinstance(holder, Function):
                found.append(Scope(source, node, holder if isinstance(holder, ast.ClassDef) else None))
    return found


def called(node: ast.AST) -> str:
    """The name of the function or method that a node calls; empty where it calls none."""
    if not isinstance(node, ast.Call):
        return ""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def receiver(node: ast.Call) -> ast.expr | None:
    """What a method is called on; ``None`` of a function such as ``F.relu``."""
    if not isinstance(node.func, ast.Attribute):
        return None
    value = node.func.value
    if isinstance(value, ast.Name) and value.id in ("torch", "F", "nn", "functional", "math", "np"):
        return None
    return None if isinstance(value, ast.Attribute) and ast.unparse(value).startswith(("nn.", "torch.")) else value


def attributes_given(function: Function) -> dict[str, ast.expr]:
    """What a method gives attributes of ``self``, by their names."""
    found: dict[str, ast.expr] = {}
    for node in ast.walk(function):
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)) and node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            both = (
                isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple) and len(target.elts) == len(node.value.elts)
            )
            targets = target.elts if isinstance(target, ast.Tuple) else [target]
            values = node.value.elts if both else [node.value] * len(targets)  # type: ignore[attr-defined]
            for each, value in zip(targets, values, strict=True):
                if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name) and each.value.id == "self":
                    found.setdefault(each.attr, value)
    return found


def subject_of(node: ast.Call) -> ast.expr | None:
    """The tensor that a call is about: what a method is called on, or the first argument of a function."""
    return receiver(node) or (node.args[0] if node.args else None)


def call_text(node: ast.Call, scope: Scope, args: list[str], keywords: list[str]) -> str:
    """The text of a call with other arguments."""
    return f"{scope.text(node.func)}({', '.join([*args, *keywords])})"


def arguments(node: ast.Call, scope: Scope) -> tuple[list[str], list[str]]:
    """The texts of the arguments of a call, by place and by name."""
    keywords = [f"{each.arg}={scope.text(each.value)}" if each.arg else f"**{scope.text(each.value)}" for each in node.keywords]
    return [scope.text(each) for each in node.args], keywords


def integer(node: ast.AST) -> int | None:
    """The whole number that a node is, with its sign; ``None`` where it is none."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = integer(node.operand)
        return None if inner is None else -inner
    return node.value if isinstance(node, ast.Constant) and type(node.value) is int else None


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


@contextmanager
def all_changed(sources: Mapping[str, Source], change: Change) -> Iterator[None]:
    """Runs a block with several edits in effect; see ``changed``."""
    now = dict(sources)
    with ExitStack() as stack:
        # The last line of a file first: the lines of the others stay where they are.
        for file, edit in sorted(change, key=lambda each: -each[1].line):
            stack.enter_context(changed(now[file], edit))
            now[file] = now[file].after(edit)
        yield


def functions_of(file: str) -> list[FunctionType]:
    """The functions of the loaded modules of a file: its own and the methods of its classes, also under decorators that keep them."""
    here = ["__main__"] if cell_of(file) else []
    modules = [module for name, module in list(sys.modules.items()) if name in here or getattr(module, "__file__", None) == file]
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
