"""Expressions of Python, worked out without running them."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.models.followed import (
    PLAIN,
    UNKNOWN,
    Built,
    Class,
    Function,
    Method,
    Object,
    Outside,
    ReachedError,
    ReadCall,
    Scope,
    Settings,
    TooLongError,
    UnknownError,
    gives_all,
    is_iterated,
    is_true,
    unknown,
)
from harness.models.followed.arrays import ARRAYS, array_attribute, item_of_array, refuse_large
from harness.models.followed.outside import (
    BUILDS,
    BUILTINS,
    CONFIGS,
    LARGEST_FILE,
    LONGEST,
    MODULE_METHODS,
    OTHER_BUILTINS,
    SETTINGS_METHODS,
    Opened,
    Parser,
    called_method,
    called_outside,
)

_MOST_STEPS = 60_000
_LONGEST_PATH = 250
"""Expressions and statements that are followed of one script."""

_OPERATORS: Mapping[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod, ast.Pow: operator.pow, ast.BitOr: operator.or_, ast.BitAnd: operator.and_, ast.Eq: operator.eq,
    ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Is: operator.is_,
    ast.IsNot: operator.is_not, ast.Not: operator.not_, ast.USub: operator.neg, ast.UAdd: operator.pos,
    ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
}  # fmt: skip
_HIGHEST_POWER = 64
_MODELS = ("model", "net", "network")
"""Names of what most likely is the model, where it is not known what they stand for."""

_SAME = (ast.Is, ast.IsNot, ast.Eq, ast.NotEq)


class Expressions:
    """Works out expressions of the files of a repository.

    Args:
        root: Its folder, which relative paths start from too.
        wanted: The file and the name of what is called.
        sources: Parses a file; ``None`` where it cannot be read.
        configs: Config files of the repository, the likeliest of the model first.
        of_instances: Whether the calls of a model are looked for, which are collected in ``calls``, rather than the first one that makes
            it, at which following ends.
        required: The arguments that make the model: a call of something unknown that gives all of them by name is taken for it.
    """

    def __init__(
        self,
        root: Path,
        wanted: tuple[Path, str],
        sources: Callable[[Path], ast.Module | None],
        configs: Sequence[Path] = (),
        of_instances: bool = False,
        required: Collection[str] = (),
    ) -> None:
        self._root, self._wanted, self._parsed, self._configs = root, wanted, sources, configs
        self._of_instances, self._required = of_instances, required
        self.calls: list[ReadCall] = []
        self._modules: dict[Path, Scope] = {}
        self._steps = 0
        self._depth = 0

    def _called(self, function: Function, arguments: list[Any], keywords: Mapping[str, Any], is_partial: bool = False) -> Any:
        raise NotImplementedError

    def _made(self, cls: Class, arguments: list[Any], keywords: Mapping[str, Any]) -> Any:
        raise NotImplementedError

    def _imported(self, file: Path, module: str) -> Any:
        raise NotImplementedError

    def _assign(self, target: ast.expr, value: Any, scope: Scope) -> None:
        raise NotImplementedError

    def _truth(self, node: ast.expr, scope: Scope) -> bool:
        return is_true(self._value(node, scope))

    def _value(self, node: ast.expr, scope: Scope) -> Any:
        self._step()
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            try:
                return scope.find(node.id)
            except UnknownError:
                if node.id in BUILTINS or node.id in OTHER_BUILTINS:
                    return Outside(node.id)
                raise
        if isinstance(node, ast.Attribute):
            return self._attribute(self._value(node.value, scope), node.attr)
        if isinstance(node, ast.Call):
            return self._call(node, scope)
        if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            items = [item for each in node.elts for item in self._unpacked(each, scope)]
            return {ast.Tuple: tuple, ast.List: list, ast.Set: set}[type(node)](items)
        if isinstance(node, ast.Dict):
            found: dict[Any, Any] = {}
            for key, each in zip(node.keys, node.values, strict=True):
                if key is None:
                    found.update(self._value(each, scope))
                else:
                    with suppress(UnknownError):
                        found[self._value(key, scope)] = self._value(each, scope)
            return found
        if isinstance(node, ast.Subscript):
            return self._item(self._value(node.value, scope), node.slice, scope)
        if isinstance(node, ast.BinOp):
            return self._operated(type(node.op), self._value(node.left, scope), self._value(node.right, scope))
        if isinstance(node, ast.UnaryOp):
            return self._operated(type(node.op), self._value(node.operand, scope))
        if isinstance(node, ast.BoolOp):
            value: Any = None
            for each in node.values:
                value = self._value(each, scope)
                if is_true(value) is isinstance(node.op, ast.Or):
                    break
            return value
        if isinstance(node, ast.Compare):
            left = self._value(node.left, scope)
            for op, right in zip(node.ops, node.comparators, strict=True):
                other = self._value(right, scope)
                if not is_true(self._operated(type(op), left, other)):
                    return False
                left = other
            return True
        if isinstance(node, ast.IfExp):
            return self._value(node.body if self._truth(node.test, scope) else node.orelse, scope)
        if isinstance(node, ast.JoinedStr):
            return "".join(
                str(self._value(part.value if isinstance(part, ast.FormattedValue) else part, scope)) for part in node.values
            )
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp)):
            made = [self._value(node.elt, inner) for inner in self._each(node.generators, scope)]
            return set(made) if isinstance(node, ast.SetComp) else made
        if isinstance(node, ast.DictComp):
            return {self._value(node.key, inner): self._value(node.value, inner) for inner in self._each(node.generators, scope)}
        if isinstance(node, ast.Lambda):
            return Function(node, scope)
        raise UnknownError(type(node).__name__)

    def _each(self, generators: list[ast.comprehension], scope: Scope) -> Iterator[Scope]:
        if not generators:
            yield scope
            return
        first, *rest = generators
        for item in self._items(self._value(first.iter, scope)):
            inner = Scope(scope.file, {}, scope)
            self._assign(first.target, item, inner)
            if all(self._truth(test, inner) for test in first.ifs):
                yield from self._each(rest, inner)

    def _unpacked(self, node: ast.expr, scope: Scope) -> Iterator[Any]:
        if isinstance(node, ast.Starred):
            yield from self._items(self._value(node.value, scope))
        else:
            yield self._value(node, scope)

    def _items(self, value: Any) -> Iterator[Any]:
        if not isinstance(value, (list, tuple, set, dict, str, range)) and not is_iterated(value):
            raise UnknownError("items")
        for place, item in enumerate(value):
            if place >= LONGEST:
                raise UnknownError("many items")
            yield item

    def _item(self, owner: Any, key: ast.expr, scope: Scope) -> Any:
        if isinstance(owner, Object):
            return self._attribute(owner, str(self._value(key, scope)))
        place = self._place(key, scope)
        if isinstance(owner, ARRAYS):
            return item_of_array(owner, place)
        if not isinstance(owner, (dict, list, tuple, str, range)):
            raise UnknownError("an item")
        try:
            return owner[place]  # type: ignore[index]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UnknownError("an item") from error

    def _place(self, key: ast.expr, scope: Scope) -> Any:
        if isinstance(key, ast.Slice):
            return slice(*(None if end is None else self._value(end, scope) for end in (key.lower, key.upper, key.step)))
        if isinstance(key, ast.Tuple):
            return tuple(self._place(each, scope) for each in key.elts)
        return self._value(key, scope)

    def _attribute(self, owner: Any, name: str) -> Any:
        if isinstance(owner, Settings) and name in owner:
            return owner[name]
        if isinstance(owner, Scope):
            if name in owner.names:
                return owner.names[name]
            return self._imported(owner.file, f".{name}") if owner.file.name == "__init__.py" else unknown(name)
        if isinstance(owner, Object):
            if name in owner.names:
                return owner.names[name]
            if name == "module":
                return owner
            owner_class: Any = owner.cls
            try:
                return self._of_class(owner_class, name, owner)
            except UnknownError:
                if name in MODULE_METHODS:
                    return Method(owner, name)
                raise
        if isinstance(owner, ARRAYS):
            found = array_attribute(owner, name)
            return Method(owner, name) if found is UNKNOWN else found
        if isinstance(owner, Class):
            return self._of_class(owner, name, owner)
        if isinstance(owner, Outside):
            return Outside(f"{owner.name}.{name}")
        if isinstance(owner, Settings) and not hasattr(owner, name) and name not in SETTINGS_METHODS:
            raise UnknownError(name)
        if isinstance(owner, (Parser, Opened, *PLAIN)):
            return Method(owner, name)
        raise UnknownError(name)

    def _of_class(self, cls: Class, name: str, owner: Any) -> Any:
        """A method or a value of a class, or of those that it derives from."""
        for node in cls.node.body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name:
                said = {ast.unparse(each) for each in node.decorator_list}
                bound = None if "staticmethod" in said or (isinstance(owner, Class) and "classmethod" not in said) else owner
                return Function(node, cls.scope, bound)
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0] if isinstance(node, ast.Assign) else None
            if (
                isinstance(target, ast.Name)
                and target.id == name
                and isinstance(node, (ast.Assign, ast.AnnAssign))
                and node.value
            ):
                return self._value(node.value, cls.scope)
        for base in cls.node.bases:
            with suppress(UnknownError):
                found = self._value(base, cls.scope)
                if isinstance(found, Class):
                    return self._of_class(found, name, owner)
        raise UnknownError(name)

    def _operated(self, kind: type[ast.AST], *values: Any) -> Any:
        known = (Outside, *PLAIN, *ARRAYS) if kind in _SAME else (*PLAIN, *ARRAYS)
        if kind not in _OPERATORS or not all(isinstance(value, known) for value in values):
            raise UnknownError(kind.__name__)
        if kind in (ast.Mult, ast.Pow) and any(isinstance(value, (int, float)) and abs(value) > LARGEST_FILE for value in values):
            raise UnknownError("a large number")
        if kind is ast.Pow and any(isinstance(value, (int, float)) and abs(value) > _HIGHEST_POWER for value in values[1:]):
            raise UnknownError("a high power")
        refuse_large(values)
        try:
            return _OPERATORS[kind](*values)
        except Exception as error:  # whatever Python raises for these values
            raise UnknownError(kind.__name__) from error

    def _call(self, node: ast.Call, scope: Scope) -> Any:
        try:
            function = self._value(node.func, scope)
        except UnknownError:
            if self._of_instances and ast.unparse(node.func).rpartition(".")[2].lower() in _MODELS:
                self.calls.append(ReadCall(*self._passed(node, scope), scope.file, node.lineno, is_sure=False))
            if not self._of_instances and gives_all(node, self._required):  # `models[args.name](width=…)`
                raise ReachedError(ReadCall(*self._passed(node, scope), scope.file, node.lineno, is_sure=False)) from None
            raise
        arguments, keywords = self._passed(node, scope)
        if isinstance(function, (Class, Function)) and self._is_wanted(function) and not self._of_instances:
            raise ReachedError(ReadCall(arguments, keywords, scope.file, node.lineno))
        if isinstance(function, Object):
            function = self._of_class(function.cls, "forward", function)
        if self._of_instances and self._is_forward_of_wanted(function):
            self.calls.append(ReadCall(arguments, keywords, scope.file, node.lineno))
            unknown("what the model returns")
        if isinstance(function, Function):
            return self._called(function, arguments, keywords)
        if isinstance(function, Class):
            return self._made(function, arguments, keywords)
        if isinstance(function, Method):
            return called_method(function, arguments, keywords, self._near)
        if isinstance(function, Outside):
            return self._outside(function.name, arguments, keywords, scope)
        raise UnknownError("a call")

    def _outside(self, name: str, arguments: list[Any], keywords: Mapping[str, Any], scope: Scope) -> Any:
        """A function of a package: those that call back or read attributes are followed here."""
        first = arguments[0] if arguments else None
        if name == "eval" and isinstance(first, str):
            with suppress(SyntaxError, ValueError):
                return self._value(ast.parse(first, mode="eval").body, scope)
        if name.endswith("spawn") and isinstance(keywords.get("args"), (tuple, list)) and isinstance(first, Function):
            return self._called(first, [0, *keywords["args"]], {})
        if name not in ("getattr", "hasattr", "setattr"):
            try:
                return called_outside(name, arguments, keywords, self._near)
            except UnknownError:
                if not name.startswith(BUILDS):
                    raise
                return Built(name, (arguments, keywords))
        if len(arguments) < 2 or first is UNKNOWN or not isinstance(arguments[1], str):
            unknown(name)
        if name == "setattr":
            return first.__setitem__(arguments[1], arguments[2]) if isinstance(first, Settings) else unknown(name)
        try:
            found = self._attribute(first, arguments[1])
        except UnknownError:
            found = UNKNOWN
        is_there = found is not UNKNOWN and not isinstance(found, (Method, Outside))
        if name == "hasattr":
            return is_there if isinstance(first, (Settings, Object)) else unknown(name)
        return found if is_there else arguments[2] if len(arguments) > 2 else unknown(name)

    def _is_wanted(self, function: Class | Function) -> bool:
        return (function.scope.file, getattr(function.node, "name", "")) == self._wanted

    def _is_forward_of_wanted(self, function: Any) -> bool:
        if not isinstance(function, Function) or not isinstance(function.owner, Object):
            return False
        return getattr(function.node, "name", "") == "forward" and self._is_wanted(function.owner.cls)

    def _passed(self, node: ast.Call, scope: Scope) -> tuple[list[Any], dict[str, Any]]:
        arguments: list[Any] = []
        keywords: dict[str, Any] = {}
        for each in node.args:
            try:
                arguments += self._unpacked(each, scope)
            except UnknownError:
                arguments.append(UNKNOWN)
        for keyword in node.keywords:
            try:
                value = self._value(keyword.value, scope)
            except UnknownError:
                if keyword.arg is not None:
                    keywords[keyword.arg] = UNKNOWN
                continue
            if keyword.arg is not None:
                keywords[keyword.arg] = value
            elif isinstance(value, Object):
                keywords.update(value.names)
            elif isinstance(value, dict):
                keywords.update({str(key): item for key, item in value.items()})
        return arguments, keywords

    def _near(self, path: Any) -> Path:
        """A file of the repository that a script names, or for ``None`` the config that speaks of the model most likely."""
        if path is None or path == "":  # an option without a value
            if not self._configs:
                raise UnknownError("a config")
            return self._configs[0]
        if len(str(path)) > _LONGEST_PATH:  # a text that is no path
            raise UnknownError("a path")
        for folder in (self._root, self._wanted[0].parent, *(file.parent for file in list(self._modules)[:1])):
            found = folder / str(path)
            if found.is_file() and found.resolve().is_relative_to(self._root) and found.stat().st_size <= LARGEST_FILE:
                return found
        named = self._root / str(path)  # by default a config that is not there: another one of its folder
        if named.suffix in CONFIGS and named.parent.is_dir() and named.parent.resolve().is_relative_to(self._root):
            beside = sorted(named.parent.glob(f"*{named.suffix}"))
            if beside:
                return beside[0]
        raise UnknownError(str(path))

    def _step(self) -> None:
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise TooLongError
