"""What the names of a file stand for, and what is known of values while its code is followed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

_ROUNDS = 4
"""Rounds in which an alias of an alias is found."""

_MEANINGS = 8
"""Meanings of one name that are followed; ``x = x.y`` would otherwise have one more in each round."""

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
"""Nodes that open a scope in which a name that is bound is not the builtin one."""


class Names:
    """The imports and aliases of a file, wherever in it they are made.

    Args:
        tree: The file.
    """

    def __init__(self, tree: ast.AST) -> None:
        self.aliases: dict[str, set[str]] = {}
        for node in ast.walk(tree):
            for name, target in _imported(node):
                self.aliases.setdefault(name, set()).add(target)
        assignments = [(name, value) for node in ast.walk(tree) for name, value in _assigned(node)]
        for _ in range(_ROUNDS):
            for name, value in assignments:
                if self.is_import(value) and len(self.aliases.get(name, ())) < _MEANINGS:
                    self.aliases.setdefault(name, set()).update(self.all_of(value))

    def all_of(self, node: ast.AST) -> tuple[str, ...]:
        """All dotted names that an expression may stand for."""
        if isinstance(node, ast.Name):
            return tuple(sorted(self.aliases.get(node.id, {node.id})))
        if isinstance(node, ast.Attribute):
            return tuple(f"{base}.{node.attr}" for base in self.all_of(node.value))
        if isinstance(node, ast.NamedExpr):
            return self.all_of(node.value)
        if isinstance(node, ast.Call):
            return self._of_call(node)
        return ()

    def is_import(self, node: ast.AST) -> bool:
        """Whether a chain of attributes begins with something imported."""
        if isinstance(node, (ast.Attribute, ast.NamedExpr)):
            return self.is_import(node.value)
        if isinstance(node, ast.Call):
            called = self.all_of(node.func)
            return _imports(called) or ("getattr" in called and bool(node.args) and self.is_import(node.args[0]))
        return isinstance(node, ast.Name) and node.id in self.aliases

    def _of_call(self, node: ast.Call) -> tuple[str, ...]:
        """``__import__("os")`` is ``os``, and ``getattr(os, "path")`` is ``os.path``."""
        called = self.all_of(node.func)
        if _imports(called) and node.args:
            name = folded(node.args[0])
            return (name,) if name else ()
        if "getattr" in called and len(node.args) > 1:
            name = folded(node.args[1])
            return tuple(f"{base}.{name}" for base in self.all_of(node.args[0])) if name else ()
        return ()


def folded(node: ast.AST) -> str | None:
    """The string that an expression of literals stands for, such as ``"sys" + "tem"``; ``None`` where it depends on something else."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = folded(node.left), folded(node.right)
        return None if left is None or right is None else left + right
    if isinstance(node, ast.JoinedStr):
        return _joined("", [part.value if isinstance(part, ast.FormattedValue) else part for part in node.values])
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        text = folded(node.func.value)
        if text is not None and node.func.attr == "join" and node.args and isinstance(node.args[0], (ast.List, ast.Tuple)):
            return _joined(text, node.args[0].elts)
        if text is not None and node.func.attr in ("lower", "upper", "strip") and not node.args:
            return str(getattr(text, node.func.attr)())
        if text is not None and node.func.attr == "replace" and len(node.args) == 2:
            old, new = map(folded, node.args)
            return None if old is None or new is None else text.replace(old, new)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "chr" and len(node.args) == 1:
        code = node.args[0]
        valid = isinstance(code, ast.Constant) and isinstance(code.value, int) and 0 <= code.value < 0x110000
        return chr(code.value) if valid else None  # type: ignore[attr-defined,arg-type]
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
        return _reversed(node.value, node.slice)
    return None


def bound_in(function: ast.AST) -> set[str]:
    """Names that a function binds itself, so that inside it they are not the builtin ones."""
    assert isinstance(function, FUNCTIONS)
    spec = function.args
    parameters = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, *filter(None, (spec.vararg, spec.kwarg))]
    bound = {parameter.arg for parameter in parameters}
    elsewhere: set[str] = set()
    pending: list[ast.AST] = [function.body] if isinstance(function, ast.Lambda) else list(function.body)
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound.add(node.name)
            continue  # its own scope
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            elsewhere.update(node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
        if not isinstance(node, (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            pending.extend(ast.iter_child_nodes(node))
    return bound - elsewhere


def _imports(called: tuple[str, ...]) -> bool:
    """Whether a call imports."""
    return any(name in ("__import__", "builtins.__import__", "importlib.import_module") for name in called)


def _joined(by: str, nodes: list[ast.expr]) -> str | None:
    parts = [folded(node) for node in nodes]
    return None if any(part is None for part in parts) else by.join(part for part in parts if part is not None)


def _reversed(value: ast.expr, cut: ast.Slice) -> str | None:
    text = folded(value)
    backwards = (
        isinstance(cut.step, ast.UnaryOp) and isinstance(cut.step.op, ast.USub) and cut.lower is None and cut.upper is None
    )
    return text[::-1] if text is not None and backwards else None


def _imported(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Names that an import binds, and what to."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield (alias.asname, alias.name) if alias.asname else (alias.name.split(".")[0],) * 2
    elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
        for alias in node.names:
            yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _assigned(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Names that are given a value."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Name):
                yield target.id, node.value
            elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple) and len(target.elts) == len(node.value.elts):
                yield from ((t.id, v) for t, v in zip(target.elts, node.value.elts, strict=True) if isinstance(t, ast.Name))
    elif isinstance(node, (ast.NamedExpr, ast.AnnAssign)) and isinstance(node.target, ast.Name) and node.value is not None:
        yield node.target.id, node.value


Environment = dict[str, Any]
"""Known values by name; ``self.x`` stands for an attribute of the instance."""


class Unknown:
    """Stands for a value that is not known."""


UNKNOWN = Unknown()

_NEVER = ("TYPE_CHECKING", "typing.TYPE_CHECKING", "t.TYPE_CHECKING")


def value_of(node: ast.expr | None, known: Environment) -> Any:
    """The value of an expression, as far as it follows from what is known."""
    if node is None:
        return None
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, (ast.Name, ast.Attribute)):
        name = ast.unparse(node)
        return False if name in _NEVER else known.get(name, UNKNOWN)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        value = value_of(node.operand, known)
        return UNKNOWN if value is UNKNOWN else not value
    if isinstance(node, ast.BoolOp):
        return _either(node, known)
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        return _compared(node.ops[0], value_of(node.left, known), value_of(node.comparators[0], known))
    return UNKNOWN


def _either(node: ast.BoolOp, known: Environment) -> Any:
    values = [value_of(each, known) for each in node.values]
    deciding = isinstance(node.op, ast.Or)
    for value in values:
        if value is not UNKNOWN and bool(value) is deciding:
            return value
    return UNKNOWN if UNKNOWN in values else values[-1]


def _compared(operator: ast.cmpop, left: Any, right: Any) -> Any:
    if left is UNKNOWN or right is UNKNOWN:
        return UNKNOWN
    if isinstance(operator, (ast.Is, ast.Eq)):
        return left is right if isinstance(operator, ast.Is) else left == right
    if isinstance(operator, (ast.IsNot, ast.NotEq)):
        return left is not right if isinstance(operator, ast.IsNot) else left != right
    return UNKNOWN


def bound(
    function: ast.FunctionDef | ast.AsyncFunctionDef, call: ast.Call | None, known: Environment, method: bool
) -> Environment:
    """What a function knows of its parameters when it is called.

    Args:
        function: The function.
        call: The call; ``None`` for one whose arguments are all in ``known``, by name.
        known: What is known where it is called.
        method: Whether the first parameter is the instance.
    """
    spec = function.args
    positional = [*spec.posonlyargs, *spec.args][1 if method else 0 :]
    inside: Environment = {name: value for name, value in known.items() if method and name.startswith("self.")}
    for parameters, defaults in ((positional, spec.defaults), (spec.kwonlyargs, spec.kw_defaults)):
        for parameter, default in zip(reversed(parameters), reversed(defaults), strict=False):
            inside[parameter.arg] = value_of(default, {}) if default is not None else UNKNOWN
    if call is None:
        return inside | {name: value for name, value in known.items() if not name.startswith("self.")}
    if any(isinstance(argument, ast.Starred) for argument in call.args):
        return {name: value for name, value in inside.items() if name.startswith("self.")}
    for parameter, argument in zip(positional, call.args, strict=False):
        inside[parameter.arg] = value_of(argument, known)
    for keyword in call.keywords:
        if keyword.arg:
            inside[keyword.arg] = value_of(keyword.value, known)
    return inside


def relative_imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Names that relative imports bind, and what to: ``.blocks.Block``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            start = "." * node.level + (f"{node.module}." if node.module else "")
            yield from ((alias.asname or alias.name, f"{start}{alias.name}") for alias in node.names)
