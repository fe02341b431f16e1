"""The lines in which a bug differs from its twin.

A pair of one class is written as its author would have written it: the argument that switches the bug on is folded away. Of two classes the
code is compared, method by method.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol
from unittest.mock import Mock, patch

import torch
from torch import nn

from harness.excerpts import Fix
from harness.user_code import is_users_file
from tests.planted_bugs import register as planted_register
from tests.wild import register
from tests.wild.register import NOISE, WildBug, wrongness

Line = tuple[str, int]
"""The name of a file, and a line of it."""


class Pair(Protocol):
    """A bug and its twin: `name`, and what makes each."""

    @property
    def name(self) -> str: ...

    @property
    def buggy(self) -> Callable[[], nn.Module]: ...

    @property
    def sound(self) -> Callable[[], nn.Module]: ...


_UNKNOWN = object()
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
    ast.Is: lambda a, b: a is b,
    ast.IsNot: lambda a, b: a is not b,
}


class Folded(ast.NodeTransformer):
    """Code in which an argument has one value, and is there no more.

    Attributes:
        flag: The argument.
        value: Its value.
        attributes: Attributes of ``self`` that keep it.
        places: At which place functions take it, by their names.
    """

    def __init__(self, tree: ast.Module, flag: str, value: object) -> None:
        self.flag, self.value = flag, value
        self.attributes = {flag, *(target.attr for target, kept in _assigned(tree) if _is_named(kept, flag))}
        self.places: dict[str, int] = {}
        self.taken = [False]
        self.parameters: list[set[str]] = [set()]
        for node in ast.walk(tree):
            inits = [f for f in node.body if isinstance(f, ast.FunctionDef)] if isinstance(node, ast.ClassDef) else []
            for name, function in (
                [(node.name, f) for f in inits if f.name == "__init__"] if isinstance(node, ast.ClassDef) else []
            ):
                self._note(name, function)
            if isinstance(node, ast.FunctionDef) and node.name != "__init__":
                self._note(node.name, node)

    def _note(self, name: str, function: ast.FunctionDef) -> None:
        names = [each.arg for each in function.args.args]
        if self.flag in names:
            self.places[name] = names.index(self.flag) - (names[0] in ("self", "cls"))

    def constant(self, node: ast.AST) -> Any:
        """The value of an expression that the argument decides."""
        if isinstance(node, ast.Constant):
            return node.value
        if self._is_flag(node):
            return self.value
        if isinstance(node, ast.UnaryOp):
            inner = self.constant(node.operand)
            is_not = isinstance(node.op, ast.Not)
            return (
                _UNKNOWN
                if inner is _UNKNOWN or not (is_not or isinstance(node.op, ast.USub))
                else not inner
                if is_not
                else -inner
            )
        if isinstance(node, (ast.Tuple, ast.Set, ast.List)):
            items = [self.constant(each) for each in node.elts]
            return _UNKNOWN if _UNKNOWN in items else items
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARISONS:
            left, right = self.constant(node.left), self.constant(node.comparators[0])
            return _UNKNOWN if _UNKNOWN in (left, right) else _COMPARISONS[type(node.ops[0])](left, right)
        return _UNKNOWN

    def _is_flag(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Name):
            return node.id == self.flag and self.taken[-1]
        if isinstance(node, ast.Subscript):  # of what was saved
            return isinstance(node.slice, ast.Constant) and node.slice.value == self.flag
        is_attribute = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        return is_attribute and (node.attr == self.flag or (node.value.id == "self" and node.attr in self.attributes))  # type: ignore[attr-defined]

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        given = node.args
        names = [each.arg for each in given.args]
        self.parameters.append({*names} | self.parameters[-1])
        self.taken.append(self.taken[-1] or self.flag in [*names, *(each.arg for each in given.kwonlyargs)])
        if self.flag in names:
            place = names.index(self.flag)
            first_default = len(names) - len(given.defaults)
            if place >= first_default:
                given.defaults.pop(place - first_default)
            given.args.pop(place)
        for place, each in enumerate(given.kwonlyargs):
            if each.arg == self.flag:
                given.kwonlyargs.pop(place)
                given.kw_defaults.pop(place)
        self.generic_visit(node)
        self.taken.pop()
        self.parameters.pop()
        node.body = node.body or [ast.Pass()]
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        node.keywords = [word for word in node.keywords if word.arg != self.flag]
        if name in self.places and self.places[name] < len(node.args):
            node.args.pop(self.places[name])
        elif name in ("partial", "__init__", "cls", *self.places, *self.parameters[-1]):
            node.args = [each for each in node.args if not self._is_flag(each)]
        self.generic_visit(node)
        return node

    def visit_If(self, node: ast.If) -> Any:
        node.test = self._simple(node.test)
        value = self.constant(node.test)
        if value is _UNKNOWN:
            self.generic_visit(node)
            node.body = node.body or [ast.Pass()]
            return node
        kept = [self.visit(each) for each in (node.body if value else node.orelse)]
        return [one for each in kept if each is not None for one in (each if isinstance(each, list) else [each])] or None

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        value = self.constant(self._simple(node.test))
        if value is _UNKNOWN:
            self.generic_visit(node)
            return node
        kept: ast.AST = self.visit(node.body if value else node.orelse)
        return kept

    def _simple(self, test: ast.expr) -> ast.expr:
        """A condition without the parts that are decided."""
        if not isinstance(test, ast.BoolOp):
            return test
        is_and, values = isinstance(test.op, ast.And), list[ast.expr]()
        for each in map(self._simple, test.values):
            known = self.constant(each)
            if known is _UNKNOWN:
                values.append(each)
            elif bool(known) is not is_and:
                return ast.Constant(known)
        return ast.Constant(is_and) if not values else values[0] if len(values) == 1 else ast.BoolOp(test.op, values)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        simple = self._simple(node)
        if simple is not node and not isinstance(simple, ast.BoolOp):
            kept: ast.AST = self.visit(simple)
            return kept
        self.generic_visit(simple)
        return simple

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        target, value = node.targets[0], node.value
        pairs = [(target, value)]
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            pairs = list(zip(target.elts, value.elts, strict=True))
        kept = [pair for pair in pairs if not (self._is_flag(pair[0]) and isinstance(pair[0], ast.Attribute))]
        if not kept:
            return None
        if len(kept) < len(pairs):
            targets, values = ([pair[side] for pair in kept] for side in (0, 1))
            node.targets = [targets[0] if len(kept) == 1 else ast.Tuple(targets, ast.Store())]
            node.value = values[0] if len(kept) == 1 else ast.Tuple(values, ast.Load())
        self.generic_visit(node)
        return node

    def visit_Dict(self, node: ast.Dict) -> ast.AST:
        is_flag = [isinstance(each, ast.Constant) and each.value == self.flag for each in node.keys]
        node.keys, node.values = (
            [one for one, gone in zip(each, is_flag, strict=True) if not gone] for each in (node.keys, node.values)
        )
        self.generic_visit(node)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        return self._constant_or(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        return self._constant_or(node) if isinstance(node.op, ast.Not) else self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self._constant_or(node) if isinstance(node.ctx, ast.Load) else node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        return self._constant_or(node) if isinstance(node.ctx, ast.Load) else node

    def _constant_or(self, node: ast.expr) -> ast.AST:
        value = self.constant(node)
        return self.generic_visit(node) if value is _UNKNOWN else ast.Constant(value)


def _assigned(tree: ast.AST) -> Iterator[tuple[ast.Attribute, ast.expr]]:
    """What attributes of ``self`` are given, one by one where several are at once."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
            both_are_tuples = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
            pairs = zip(target.elts, value.elts, strict=False) if both_are_tuples else [(target, value)]  # type: ignore[attr-defined]
            yield from (
                (left, right) for left, right in pairs if isinstance(left, ast.Attribute) and _is_named(left.value, "self")
            )


def _is_named(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def switch_of(bug: Pair) -> tuple[str, Any, Any] | None:
    """The argument that a pair's two models differ in, with its value in the bug and without; ``None`` where they differ in more."""
    wrong, right = (
        (each.func, each.args, each.keywords) if isinstance(each, partial) else (each, (), {}) for each in (bug.buggy, bug.sound)
    )
    if wrong[0] is not right[0]:
        return None
    parameters = inspect.signature(wrong[0]).parameters
    values = [dict(zip(parameters, args, strict=False)) | words for _, args, words in (wrong, right)]
    defaults = {name: each.default for name, each in parameters.items()}
    differ = [
        name for name in {**defaults, **values[0], **values[1]}
        if values[0].get(name, defaults.get(name)) is not values[1].get(name, defaults.get(name))
    ]  # fmt: skip
    if "wrong" in differ:
        differ = ["wrong"]
    if len(differ) != 1:
        return None
    name = differ[0]
    unset = False if defaults.get(name, inspect.Parameter.empty) is inspect.Parameter.empty else defaults[name]
    pair = tuple(each.get(name, unset) for each in values)
    return None if any(isinstance(each, type) for each in pair) else (name, *pair)  # type: ignore[return-value]


class Written:
    """A pair as its author would have written it.

    Attributes:
        file: The file with the bug.
        lines: The lines in it to change, and, where something is missing, those before and after the place.
    """

    def __init__(self, bug: Pair, switch: tuple[str, Any, Any], folder: Path) -> None:
        self._made = bug.buggy if isinstance(bug.buggy, partial) else partial(bug.buggy)
        self._flag, self._folder, self._name = switch[0], folder, bug.name
        self._source = sys.modules[self._made.func.__module__]
        texts = [self._text(value) for value in switch[1:]]
        self.file = self._path("model")
        for kind, text in zip(("model", "sound"), texts, strict=True):
            self._path(kind).write_text(text)
        with torch.random.fork_rng(devices=[]):
            made = self.build()
        changed = _changed_lines(*(text.splitlines() for text in texts))
        self.lines = (changed | set(_lines_that_use(texts[0], changed))) & set(_lines_of(texts[0], made))

    def _path(self, kind: str) -> Path:
        return self._folder / f"{kind}_{self._name}.py"

    def _text(self, value: object) -> str:
        tree = ast.parse(Path(str(self._source.__file__)).read_text())
        tree = Folded(tree, self._flag, value).visit(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                package = str(self._source.__package__).rsplit(".", node.level - 1)[0]
                node.module, node.level = f"{package}.{node.module or ''}".rstrip("."), 0
        return ast.unparse(ast.fix_missing_locations(tree))

    def build(self, kind: str = "model") -> nn.Module:
        """The model of one of the files: ``model``, ``sound``, or ``fixed``."""
        code = self._code(kind)
        names = list(inspect.signature(self._made.func).parameters)
        args, words = list(self._made.args), {k: self._own(v, code) for k, v in self._made.keywords.items() if k != self._flag}
        if self._flag in names and names.index(self._flag) < len(args):
            args.pop(names.index(self._flag))
        made: nn.Module = getattr(code, self._made.func.__qualname__)(*(self._own(each, code) for each in args), **words)
        return made

    def _code(self, kind: str) -> ModuleType:
        name = f"{kind}_{self._name}"
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, self._path(kind))
            assert spec is not None and spec.loader is not None  # noqa: PT018
            sys.modules[name] = importlib.util.module_from_spec(spec)
            # It registers its pairs once more.
            with patch.multiple(register, _REGISTER={}, WildBug=Mock()), patch.object(planted_register, "_REGISTER", {}):
                spec.loader.exec_module(sys.modules[name])
        return sys.modules[name]

    def _own(self, value: Any, code: ModuleType) -> Any:
        """A class of the pair's file as it is in the written one."""
        return (
            getattr(code, value.__qualname__) if isinstance(value, type) and value.__module__ == self._source.__name__ else value
        )

    def is_right(self, bug: WildBug, change: Fix) -> bool | None:
        """Whether the model has the bug no more once the hint is followed; ``None`` where the pair cannot measure written models."""
        lines = self.file.read_text().splitlines()
        lines[change.line - 1 : change.line - 1 + len(change.old)] = change.new
        self._path("fixed").write_text("\n".join(lines) + "\n")
        return self._has_no_bug(bug, "fixed") if self._has_no_bug(bug, "sound") else None

    def _has_no_bug(self, bug: WildBug, kind: str) -> bool:
        wrong, name = bug.wrong, getattr(bug.wrong, "__qualname__", "")
        if getattr(wrong, "__module__", "") == self._source.__name__ and name.isidentifier():
            bug = replace(bug, wrong=getattr(self._code(kind), name))  # it may build the model once more
        try:
            return wrongness(bug, partial(self.build, kind)) <= NOISE
        except Exception:  # whatever a model raises
            return False


def _changed_lines(wrong: list[str], right: list[str]) -> set[int]:
    found = set[int]()
    for kind, start, end, _, _ in difflib.SequenceMatcher(None, wrong, right, autojunk=False).get_opcodes():
        found |= {start, start + 1} if kind == "insert" else set(range(start + 1, end + 1)) if kind != "equal" else set()
    return found


def _lines_that_use(text: str, changed: set[int]) -> Iterator[int]:
    """The lines that use what a changed line only gives a name, such as a number: what is wrong can be changed there as well."""
    for cls in ast.walk(ast.parse(text)):
        nodes = list(ast.walk(cls)) if isinstance(cls, ast.ClassDef) else []
        named = [node for node in nodes if isinstance(node, ast.Assign) and node.lineno in changed]
        plain = [node for node in named if not any(isinstance(each, (ast.Call, ast.Tuple)) for each in ast.walk(node))]
        names = {ast.unparse(target) for node in plain for target in node.targets}
        yield from (node.lineno for node in nodes if isinstance(node, (ast.Name, ast.Attribute)) and ast.unparse(node) in names)


def _lines_of(text: str, model: nn.Module) -> Iterator[int]:
    """The lines of a model's classes, and of other classes and functions that are neither modules nor register pairs."""
    own = {cls.__name__ for module in model.modules() for cls in type(module).__mro__}
    code = sys.modules[type(model).__module__]
    for node in ast.parse(text).body:
        is_module = isinstance(node, ast.ClassDef) and issubclass(getattr(code, node.name, nn.Module), nn.Module)
        registers = isinstance(node, ast.FunctionDef) and any(_is_named(each, "wild") for each in ast.walk(node))
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not registers and (not is_module or node.name in own):
            yield from range(node.lineno, (node.end_lineno or node.lineno) + 1)


def lines_between(wrong: nn.Module, right: nn.Module) -> set[Line]:
    """The lines of a model that are different in another one, method by method of the classes of modules at the same place."""
    others, found = dict(right.named_modules()), set[Line]()
    for path, module in wrong.named_modules():
        one, other = type(module), type(others[path]) if path in others else nn.Module
        if one is not other:
            for name in {name for cls in one.__mro__ for name in vars(cls)}:
                found |= _lines_of_method(inspect.getattr_static(one, name), inspect.getattr_static(other, name, None))
    return found


def _lines_of_method(wrong: object, right: object) -> set[Line]:
    wrong, right = (each.fget if isinstance(each, property) else getattr(each, "__func__", each) for each in (wrong, right))
    if wrong is right or not inspect.isfunction(wrong) or not is_users_file(wrong.__code__.co_filename):
        return set()
    (own, first), other = inspect.getsourcelines(wrong), inspect.getsourcelines(right)[0] if inspect.isfunction(right) else []
    changed = _changed_lines(*([line.strip() for line in lines] for lines in (own, other)))
    return {(Path(wrong.__code__.co_filename).name, first - 1 + line) for line in changed}
