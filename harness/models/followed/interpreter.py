"""Statements of Python, followed without running them."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.models.followed import UNKNOWN, Built, Class, Function, Object, Outside, Scope, Settings, UnknownError, opened
from harness.models.followed.expressions import Expressions

_DEEPEST = 24
"""Calls within calls."""


class _ReturnError(Exception):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


class Interpreter(Expressions):
    """Follows the files of a repository."""

    def run(self, file: Path) -> Scope:
        """Follows a file as a script.

        Raises:
            ReachedError: The call that is looked for is made.
        """
        self._steps = 0
        return self._module(file, "__main__")

    def enter(self, scope: Scope, name: str) -> None:
        """Follows a function of a script of which only the defaults of its parameters are known.

        Raises:
            ReachedError: The call that is looked for is made.
        """
        self._steps = 0
        with suppress(UnknownError):
            function = scope.find(name)
            if isinstance(function, Function):
                self._called(function, [], {}, is_partial=True)

    def _module(self, file: Path, name: str) -> Scope:
        scope = Scope(file, {"__name__": name, "__file__": str(file)})
        self._modules[file] = scope
        tree = self._parsed(file)
        scope.names["__doc__"] = ast.get_docstring(tree, clean=False) if tree is not None else None
        self._block(tree.body if tree is not None else [], scope)
        return scope

    def _block(self, body: list[ast.stmt], scope: Scope) -> None:
        for statement in body:
            self._step()
            try:
                self._statement(statement, scope)
            except (UnknownError, RecursionError):
                self._forget(statement, scope)

    def _forget(self, node: ast.AST, scope: Scope) -> None:
        for name in _bound(node):
            scope.names.pop(name, None)
        for target in node.targets if isinstance(node, ast.Assign) else ():
            if isinstance(target, ast.Subscript):  # an entry that is unknown now is not what it was before
                with suppress(UnknownError, TypeError):
                    owner, key = self._value(target.value, scope), self._value(target.slice, scope)
                    if isinstance(owner, dict):
                        owner.pop(key, None)

    def _statement(self, node: ast.stmt, scope: Scope) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            scope.names[node.name] = Function(node, scope)
        elif isinstance(node, ast.ClassDef):
            scope.names[node.name] = Class(node, scope)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            self._import(node, scope)
        elif isinstance(node, ast.Assign):
            value = self._value(node.value, scope)
            for target in node.targets:
                self._assign(target, value, scope)
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            self._assign(node.target, self._value(node.value, scope), scope)
        elif isinstance(node, ast.AugAssign):
            changed = self._operated(type(node.op), self._value(node.target, scope), self._value(node.value, scope))
            self._assign(node.target, changed, scope)
        elif isinstance(node, ast.Expr):
            self._value(node.value, scope)
        elif isinstance(node, ast.Return):
            raise _ReturnError(None if node.value is None else self._value(node.value, scope))
        elif isinstance(node, ast.If):
            self._block(self._branch(node, scope), scope)
        elif isinstance(node, ast.For):
            try:
                items = list(self._items(self._value(node.iter, scope)))
            except UnknownError:  # such as batches of data: what happens to one of them
                self._forget(node.target, scope)
                self._block(node.body, scope)
                return
            for item in items:
                self._assign(node.target, item, scope)
                self._block(node.body, scope)
        elif isinstance(node, ast.While):
            self._block(node.body, scope)
        elif isinstance(node, ast.Try):
            self._block([*node.body, *node.finalbody], scope)
        elif isinstance(node, ast.With):
            for item in node.items:
                with suppress(UnknownError):
                    value = self._value(item.context_expr, scope)
                    if item.optional_vars is not None:
                        self._assign(item.optional_vars, value, scope)
            self._block(node.body, scope)
        elif isinstance(node, ast.Raise):
            raise UnknownError("it raises")

    def _branch(self, node: ast.If, scope: Scope) -> list[ast.stmt]:
        """The statements that follow a condition; where it is not known, such as which model is asked for, those where it holds."""
        try:
            return node.body if self._truth(node.test, scope) else node.orelse
        except UnknownError:
            leaves = isinstance(node.body[-1], (ast.Return, ast.Raise, ast.Continue, ast.Break))
            return [] if leaves else node.body

    def _import(self, node: ast.Import | ast.ImportFrom, scope: Scope) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.name if alias.asname else alias.name.partition(".")[0]
                scope.names[alias.asname or name] = self._imported(scope.file, name)
            return
        start = "." * node.level + (node.module or "")
        for alias in node.names:
            if alias.name == "*":
                module = self._imported(scope.file, start)
                if isinstance(module, Scope):
                    scope.names.update({name: value for name, value in module.names.items() if not name.startswith("_")})
                continue
            try:
                scope.names[alias.asname or alias.name] = self._attribute(self._imported(scope.file, start), alias.name)
            except UnknownError:
                scope.names.pop(alias.asname or alias.name, None)

    def _imported(self, file: Path, module: str) -> Any:
        """A module of the repository, or what stands for one that is not in it."""
        level = len(module) - len(module.lstrip("."))
        parts = [part for part in module.split(".") if part]
        starts = (file.parents[level - 1],) if level else _folders_above(file.parent, self._wanted[0].parent, self._root)
        for start in starts:
            place = start.joinpath(*parts)
            for found in (place.with_suffix(".py") if parts else None, place / "__init__.py"):
                if found is not None and found.is_file():
                    return self._modules.get(found) or self._module(found, ".".join(parts))
            if (parts or level) and place.is_dir():
                return Scope(place / "__init__.py")
        return Outside(module)

    def _assign(self, target: ast.expr, value: Any, scope: Scope) -> None:
        if isinstance(target, ast.Name):
            scope.names[target.id] = value
        elif isinstance(target, (ast.Tuple, ast.List)):
            items = list(self._items(value))
            if len(items) != len(target.elts) or any(isinstance(each, ast.Starred) for each in target.elts):
                raise UnknownError("unpacked")
            for each, item in zip(target.elts, items, strict=True):
                self._assign(each, item, scope)
        elif isinstance(target, ast.Attribute):
            owner = self._value(target.value, scope)
            if isinstance(owner, Settings):
                owner[target.attr] = value
            elif isinstance(owner, Object):
                owner.names[target.attr] = value
            elif isinstance(owner, Built):
                owner.is_changed = True
        elif isinstance(target, ast.Subscript):
            owner, key = self._value(target.value, scope), self._value(target.slice, scope)
            if isinstance(owner, Object):
                owner.names[str(key)] = value
            elif isinstance(owner, (dict, list)):
                with suppress(IndexError, TypeError):
                    owner[key] = value

    # Expressions

    def _called(self, function: Function, arguments: list[Any], keywords: Mapping[str, Any], is_partial: bool = False) -> Any:
        if self._depth >= _DEEPEST:
            raise UnknownError("too deep")
        scope = Scope(function.scope.file, {}, function.scope)
        spec = function.node.args
        given = [function.owner, *arguments] if function.owner is not None else arguments
        names = [each.arg for each in (*spec.posonlyargs, *spec.args)]
        for name, default in [*zip(reversed(names), reversed(spec.defaults), strict=False)]:
            with suppress(UnknownError):
                scope.names[name] = self._value(default, function.scope)
        for keyword, default_value in zip(spec.kwonlyargs, spec.kw_defaults, strict=True):
            with suppress(UnknownError):
                if default_value is not None:
                    scope.names[keyword.arg] = self._value(default_value, function.scope)
        scope.names |= dict(zip(names, given, strict=False))
        taken = {*names, *(each.arg for each in spec.kwonlyargs)}
        scope.names |= {name: value for name, value in keywords.items() if name in taken}
        if spec.vararg is not None:
            scope.names[spec.vararg.arg] = tuple(given[len(names) :])
        if spec.kwarg is not None:
            scope.names[spec.kwarg.arg] = {name: value for name, value in keywords.items() if name not in taken}
        for name in [name for name, value in scope.names.items() if value is UNKNOWN]:
            del scope.names[name]
        self._depth += 1
        try:
            if isinstance(function.node, ast.Lambda):
                return self._value(function.node.body, scope)
            self._block(function.node.body, scope)
        except _ReturnError as returned:
            return returned.value
        finally:
            self._depth -= 1
        if any(isinstance(inner, ast.Return) and inner.value for inner in ast.walk(function.node)) and not is_partial:
            raise UnknownError("what a function returns")
        return None

    def _has_forward(self, cls: Class) -> bool:
        with suppress(UnknownError):
            return self._of_class(cls, "forward", cls) is not None
        return False

    def _is_dict(self, cls: Class) -> bool:
        """Whether a class is a dict whose entries are read as attributes, nearly always."""
        for base in cls.node.bases:
            with suppress(UnknownError):
                if self._value(base, cls.scope) in (Outside("dict"), Outside("collections.OrderedDict")):
                    return True
        return False

    def _made(self, cls: Class, arguments: list[Any], keywords: Mapping[str, Any]) -> Any:
        """An instance: settings for a dataclass, and for a class that is made of keywords."""
        fields = [node for node in cls.node.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
        try:
            made = self._of_class(cls, "__init__", Object(cls))
        except UnknownError:
            made = None
        passed = (arguments, keywords) if self._has_forward(cls) else None
        if made is None and passed is not None:
            return Object(cls, passed=passed)
        if made is not None:
            made.owner.passed = passed
        if passed is None and self._is_dict(cls):
            return opened(dict(*(each for each in arguments if isinstance(each, Mapping)), **keywords))
        if made is None:
            found = Settings()
            for node in fields:
                with suppress(UnknownError):
                    if node.value is not None:
                        found[ast.unparse(node.target)] = self._value(node.value, cls.scope)
            found.update(zip([ast.unparse(node.target) for node in fields], arguments, strict=False))
            found.update(keywords)
            return Settings({name: value for name, value in found.items() if value is not UNKNOWN})
        if made.node.args.kwarg is not None and len(made.node.args.args) == 1 and not arguments:
            return opened(keywords)
        if self._of_instances and self._is_wanted(cls):
            names = [each.arg for each in made.node.args.args[1:]]
            # Most keep their arguments as they are called.
            made.owner.names.update({**dict(zip(names, arguments, strict=False)), **keywords})
            return made.owner
        self._called(made, arguments, keywords, is_partial=True)
        return made.owner


@lru_cache(maxsize=1024)
def _folders_above(folder: Path, others: Path, root: Path) -> tuple[Path, ...]:
    """The folders of a repository that imports may start from: a script may put the folder of the model on the path."""
    above = (folder, *folder.parents, others, *others.parents)
    return tuple(path for path in dict.fromkeys(above) if path.is_relative_to(root))


def _bound(statement: ast.AST) -> list[str]:
    """The names that a statement binds."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return []
    return [inner.id for inner in ast.walk(statement) if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)]
