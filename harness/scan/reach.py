"""Which calls of a file run when it is imported, or when its model is built.

The file is followed as Python would run it: the statements of the module, without its ``__main__`` block, and from them into functions, classes
and modules beside it. A condition that is known, such as ``if pretrained:`` with ``pretrained=False``, closes its branch; one that is not known
leaves both open.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.files import read_regular
from harness.scan.names import UNKNOWN, Environment, Names, bound, folded, relative_imports, value_of

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_MANY_FILES = 40
"""Files beside the first one that are followed."""

Part = ast.Module | None
PartOf = Callable[[Path], Part]
_LEVELS = 3
"""Folders above a file that its imports may start from."""
_MANY = 10_000
"""Calls after which following ends: far more than a model's file makes."""


@dataclass(frozen=True)
class ReachedCall:
    """A call that runs."""

    file: SourceFile
    node: ast.Call
    known: Environment = field(default_factory=dict)


class SourceFile:
    """A parsed file of Python.

    Args:
        path: The file.
        source: Its content.
        tree: The part of it that runs; all of it by default.
    """

    def __init__(self, path: Path, source: bytes, tree: Part = None) -> None:
        self.path = path
        self.lines = source.decode("utf-8", "replace").splitlines()
        self.source = source
        self.tree = ast.parse(source) if tree is None else tree
        self.functions: dict[str, _Function] = {}
        self.classes: dict[str, ast.ClassDef] = {}
        for node in _top_level(self.tree.body):
            if isinstance(node, _FUNCTIONS):
                self.functions[node.name] = node
            elif isinstance(node, ast.ClassDef):
                self.classes[node.name] = node
        self.relative = dict(relative_imports(self.tree))
        self._methods: dict[str, dict[str, _Function]] = {}

    @cached_property
    def names(self) -> Names:
        """What the names of the file stand for."""
        return Names(self.tree)

    def imports(self) -> Iterator[str]:
        """The modules that the file imports anywhere, and what might be one."""
        for node in ast.walk(self.tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                yield from _modules(node)

    def methods(self, cls: ast.ClassDef) -> dict[str, _Function]:
        """The methods of a class, with those of its bases in this file."""
        if cls.name not in self._methods:
            self._methods[cls.name] = {}  # a class that is among its own bases ends here
            found: dict[str, _Function] = {}
            for base in cls.bases:
                if isinstance(base, ast.Name) and base.id in self.classes:
                    found |= self.methods(self.classes[base.id])
            self._methods[cls.name] = found | {node.name: node for node in cls.body if isinstance(node, _FUNCTIONS)}
        return self._methods[cls.name]


class Reach:
    """What runs of a file.

    Args:
        path: The file.
        words: What a file must have in its text to be of interest; where neither this one nor one that it imports has, nothing is followed.
        tree: See ``SourceFile``.
        part_of: The part that runs of a file beside it; ``None`` of one that runs as a whole.

    Raises:
        SyntaxError: It is not Python.
        OSError: It cannot be read.
    """

    def __init__(self, path: Path, words: re.Pattern[bytes], tree: Part = None, part_of: PartOf | None = None) -> None:
        self._part_of = part_of or (lambda _: None)
        self.file = SourceFile(path, read_regular(path), tree)
        self._files: dict[Path, SourceFile | None] = {path: self.file}
        self._seen: set[tuple[int, str]] = set()
        self._imported: set[Path] = set()
        self._made: dict[str, dict[int, tuple[SourceFile, _Function, ast.ClassDef]]] = {}
        self._left = _MANY if self._speaks_of(words) else 0

    def at_import(self) -> Iterator[ReachedCall]:
        """The calls that run when the file is imported."""
        if self._left:
            yield from self._import(self.file)

    def at_build(self, factory: str, kwargs: Mapping[str, Any]) -> Iterator[ReachedCall]:
        """The calls that run when a function or class of the file is called."""
        target = self._target(self.file, factory, {}) if self._left else None
        if target is not None:
            yield from self._enter(*target, call=None, known=dict(kwargs))

    def _speaks_of(self, words: re.Pattern[bytes]) -> bool:
        """Whether the file, or one that it imports from beside it, has one of the words."""
        pending, seen = [self.file], {self.file.path}
        while pending:
            file = pending.pop()
            if words.search(file.source):
                return True
            for module in file.imports():
                beside = self._beside(file, module)
                if beside is not None and beside.path not in seen:
                    seen.add(beside.path)
                    pending.append(beside)
        return False

    def _import(self, file: SourceFile) -> Iterator[ReachedCall]:
        if file.path in self._imported:
            return
        self._imported.add(file.path)
        yield from self._block(file, file.tree.body, {"__name__": file.path.stem}, None)

    def _block(
        self, file: SourceFile, body: Iterable[ast.stmt], known: Environment, cls: ast.ClassDef | None
    ) -> Iterator[ReachedCall]:
        for statement in body:
            leaves = _leaves(statement, known)
            yield from self._statement(file, statement, known, cls)
            if leaves:
                return

    def _statement(self, file: SourceFile, node: ast.stmt, known: Environment, cls: ast.ClassDef | None) -> Iterator[ReachedCall]:
        if isinstance(node, _FUNCTIONS):
            spec = node.args
            yield from self._expressions(
                file, [*node.decorator_list, *spec.defaults, *filter(None, spec.kw_defaults)], known, cls
            )
        elif isinstance(node, ast.ClassDef):
            yield from self._expressions(file, [*node.decorator_list, *node.bases, *(k.value for k in node.keywords)], known, cls)
            yield from self._block(file, node.body, dict(known), node)
        elif isinstance(node, ast.If):
            yield from self._expressions(file, [node.test], known, cls)
            test = value_of(node.test, known)
            branches = [node.body, node.orelse] if test is UNKNOWN else [node.body if test else node.orelse]
            for branch in branches:
                yield from self._block(file, branch, known if len(branches) == 1 else dict(known), cls)
            if len(branches) > 1:
                _forget(known, [node])
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from self._imports(file, node)
        else:
            parts = list(ast.iter_child_nodes(node))
            yield from self._expressions(file, [part for part in parts if isinstance(part, ast.expr)], known, cls)
            if isinstance(node, (ast.For, ast.AsyncFor, ast.While)):
                _forget(known, [node])
            _assign(node, known)
            for part in parts:
                if isinstance(part, ast.stmt):
                    yield from self._statement(file, part, known, cls)
                elif isinstance(part, (ast.ExceptHandler, ast.match_case)):
                    if not _is_needless(node, part):
                        yield from self._block(file, part.body, known, cls)
                elif isinstance(part, ast.withitem):
                    yield from self._expressions(file, [part.context_expr], known, cls)

    def _imports(self, file: SourceFile, node: ast.Import | ast.ImportFrom) -> Iterator[ReachedCall]:
        """The files beside this one that an import runs."""
        for module in _modules(node):
            beside = self._beside(file, module)
            if beside is not None:
                yield from self._import(beside)

    def _expressions(
        self, file: SourceFile, nodes: Iterable[ast.AST], known: Environment, cls: ast.ClassDef | None
    ) -> Iterator[ReachedCall]:
        for node in nodes:
            closed = self._closed(node, known)
            yield from self._expressions(file, [n for n in ast.iter_child_nodes(node) if n not in closed], known, cls)
            if isinstance(node, ast.Call) and self._left > 0:
                self._left -= 1
                yield ReachedCall(file, node, known)
                yield from self._follow(file, node, known, cls)

    def _closed(self, node: ast.AST, known: Environment) -> list[ast.AST]:
        """Parts of an expression that do not run."""
        if isinstance(node, ast.IfExp):
            test = value_of(node.test, known)
            return [] if test is UNKNOWN else [node.orelse if test else node.body]
        if isinstance(node, ast.BoolOp):
            ends = isinstance(node.op, ast.Or)
            for index, part in enumerate(node.values):
                value = value_of(part, known)
                if value is not UNKNOWN and bool(value) is ends:
                    return list(node.values[index + 1 :])
        return []

    def _follow(self, file: SourceFile, node: ast.Call, known: Environment, cls: ast.ClassDef | None) -> Iterator[ReachedCall]:
        """The calls inside what a call calls."""
        func = node.func
        if isinstance(func, ast.Name):
            code = folded(node.args[0]) if func.id in ("exec", "eval") and node.args else None
            if code is not None:
                yield from self._text(file, code, known)
            target = self._target(file, func.id, known)
            if target is not None:
                yield from self._enter(*target, call=node, known=known)
        elif isinstance(func, ast.Attribute):
            yield from self._method(file, func, node, known, cls)

    def _method(
        self, file: SourceFile, func: ast.Attribute, node: ast.Call, known: Environment, cls: ast.ClassDef | None
    ) -> Iterator[ReachedCall]:
        owner = func.value
        is_self = isinstance(owner, ast.Name) and owner.id in ("self", "cls") and cls is not None
        is_super = isinstance(owner, ast.Call) and isinstance(owner.func, ast.Name) and owner.func.id == "super"
        if is_self and cls is not None:
            found = file.methods(cls).get(func.attr)
            if found is not None:
                yield from self._run(file, found, node, known, cls)
        elif is_super and cls is not None:
            for base in cls.bases:
                target = self._target(file, base.id, known) if isinstance(base, ast.Name) else None
                if target is not None and isinstance(target[1], ast.ClassDef):
                    found = target[0].methods(target[1]).get(func.attr)
                    if found is not None:
                        yield from self._run(target[0], found, node, known, target[1])
        else:
            name = ast.unparse(owner)
            beside = self._beside(file, next(iter(file.names.all_of(owner)), name)) if isinstance(owner, ast.Name) else None
            target = self._target(beside, func.attr, {}) if beside is not None else None
            if target is not None:
                yield from self._enter(*target, call=node, known=known)
                return
            for holder, method, made in list(self._made.get(func.attr, {}).values()):
                yield from self._run(holder, method, node, {}, made)

    def _enter(
        self, file: SourceFile, target: _Function | ast.ClassDef, *, call: ast.Call | None, known: Environment
    ) -> Iterator[ReachedCall]:
        """The calls inside a function, or inside what makes an instance of a class."""
        if not isinstance(target, ast.ClassDef):
            yield from self._run(file, target, call, known, None)
            return
        methods = file.methods(target)
        for name, method in methods.items():
            self._made.setdefault(name, {})[id(method)] = (file, method, target)
        for name in ("__new__", "__init__", "__post_init__"):
            if name in methods:
                inside = {key: value for key, value in known.items() if not key.startswith("self.")}
                yield from self._run(file, methods[name], call, inside, target)

    def _run(
        self, file: SourceFile, function: _Function, call: ast.Call | None, known: Environment, cls: ast.ClassDef | None
    ) -> Iterator[ReachedCall]:
        inside = bound(function, call, known, method=cls is not None and not _is_static(function))
        key = (id(function), repr(sorted((name, repr(value)) for name, value in inside.items() if value is not UNKNOWN)))
        if key in self._seen or self._left <= 0:
            return
        self._seen.add(key)
        yield from self._block(file, function.body, inside, cls)

    def _text(self, file: SourceFile, code: str, known: Environment) -> Iterator[ReachedCall]:
        """The calls of code that stands in a string."""
        try:
            inner = SourceFile(file.path, code.encode())
        except (SyntaxError, ValueError, RecursionError):
            return
        inner.lines = []
        yield from self._block(inner, inner.tree.body, dict(known), None)

    def _target(self, file: SourceFile, name: str, known: Environment) -> tuple[SourceFile, _Function | ast.ClassDef] | None:
        """What a name of a file stands for, here or in a file beside it."""
        own: _Function | ast.ClassDef | None = file.functions.get(name) or file.classes.get(name)
        if own is not None:
            return file, own
        if name in file.relative:
            dotted = file.relative[name]
        else:
            dotted = next((alias for alias in file.names.aliases.get(name, ()) if "." in alias), "")
        module, _, attribute = dotted.rpartition(".")
        beside = self._beside(file, module) if module.strip(".") or dotted.startswith(".") else None
        return self._target(beside, attribute, known) if beside is not None and beside is not file else None

    def _beside(self, file: SourceFile, module: str) -> SourceFile | None:
        """The file beside another one that a module's name stands for."""
        level = len(module) - len(module.lstrip("."))
        folder = file.path.parent
        for _ in range(level - 1):
            folder = folder.parent
        parts = [part for part in module.split(".") if part]
        if not parts:
            return None
        starts = [folder] if level else [folder, *folder.parents[:_LEVELS]]  # an import may start from a folder above
        paths = [start.joinpath(*parts).with_suffix(".py") for start in starts]
        path = next((each for each in paths if each in self._files or each.is_file()), paths[0])
        if path not in self._files:
            self._files[path] = None
            if sum(each is not None for each in self._files.values()) >= _MANY_FILES or {"site-packages", "dist-packages"} & set(
                path.parts
            ):
                return None  # what is installed is nobody's own file
            try:
                self._files[path] = SourceFile(path, read_regular(path), self._part_of(path))
            except (OSError, SyntaxError, ValueError, RecursionError):
                return None
        return self._files[path]


def _top_level(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, also those inside ``if`` and ``try``."""
    for node in body:
        yield node
        if isinstance(node, (ast.If, ast.Try, ast.With)):
            inner = [*node.body, *getattr(node, "orelse", ()), *getattr(node, "finalbody", ())]
            yield from _top_level(inner)
            for handler in getattr(node, "handlers", ()):
                yield from _top_level(handler.body)


def _modules(node: ast.Import | ast.ImportFrom) -> list[str]:
    """The modules that an import runs, and what may be one: ``from .parts import heads`` may run ``.parts.heads``."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    start = "." * node.level + (node.module or "")
    return [start, *(f"{start}{'' if start.endswith('.') else '.'}{alias.name}" for alias in node.names)]


def _is_needless(node: ast.AST, handler: ast.AST) -> bool:
    """Whether a handler is for packages that are not installed, as to install them, and all that are imported are."""
    if not isinstance(node, ast.Try) or not isinstance(handler, ast.ExceptHandler):
        return False
    caught = {ast.unparse(each) for each in getattr(handler.type, "elts", [handler.type]) if each is not None}
    names = [alias.name.partition(".")[0] for each in node.body if isinstance(each, ast.Import) for alias in each.names]
    if not all(isinstance(each, ast.Import) or ast.unparse(each).startswith("assert hasattr(") for each in node.body):
        return False
    is_for_packages = bool(names) and bool(caught) and caught <= {"ImportError", "ModuleNotFoundError", "AssertionError"}
    return is_for_packages and all(importlib.util.find_spec(name) is not None for name in names)


def _leaves(node: ast.stmt, known: Environment) -> bool:
    """Whether nothing after a statement runs: it returns or raises, or a condition that is known leads to where it does."""
    if isinstance(node, ast.If):
        test = value_of(node.test, known)
        branch = [] if test is UNKNOWN else node.body if test else node.orelse
        return any(_leaves(statement, known) for statement in branch)
    return isinstance(node, (ast.Return, ast.Raise))


def _is_static(function: _Function) -> bool:
    return any(isinstance(node, ast.Name) and node.id == "staticmethod" for node in function.decorator_list)


def _assign(node: ast.stmt, known: Environment) -> None:
    """Notes what an assignment makes known, and forgets what it makes unknown."""
    if isinstance(node, ast.Assign):
        targets, value = node.targets, value_of(node.value, known)
    elif isinstance(node, ast.AnnAssign) and node.value is not None:
        targets, value = [node.target], value_of(node.value, known)
    elif isinstance(node, ast.AugAssign):
        targets, value = [node.target], UNKNOWN
    else:
        return
    for target in targets:
        if isinstance(target, (ast.Name, ast.Attribute)):
            known[ast.unparse(target)] = value
        else:
            _forget(known, [target])


def _forget(known: Environment, nodes: Iterable[ast.AST]) -> None:
    """Forgets what some statements may change."""
    for node in nodes:
        for inner in ast.walk(node):
            if isinstance(inner, (ast.Name, ast.Attribute)) and isinstance(inner.ctx, ast.Store):
                known.pop(ast.unparse(inner), None)
