"""The part of a script that its model needs: imports, functions, classes, and the values that classes read; not what trains it.

A script of a competition or a tutorial reads its data and trains when it is imported. Its model is there nevertheless.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

_TRAINS = ("backward", "fit", "step")
"""Methods whose call makes a statement one that trains."""

_DEFINES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def definitions(tree: ast.Module) -> ast.Module:
    """The statements of a module that its classes need, in their order; none of them trains.

    A function is kept whatever it reads, which is missing only where it is called.

    Args:
        tree: The module.
    """
    kept = [each for each in tree.body if isinstance(each, (ast.Import, ast.ImportFrom, *_DEFINES)) or _only_imports(each)]
    functions = {each.name: each for each in kept if isinstance(each, ast.FunctionDef)}
    known: set[str] = set()
    # What decides how a function is made, such as its defaults, is needed at once.
    at_once: list[ast.AST] = [part for each in functions.values() for part in (*each.decorator_list, *each.args.defaults)]
    at_once += [each for each in kept if isinstance(each, ast.ClassDef)]
    wanted = {name for each in at_once for name in _read(each)}
    while wanted - known:
        name = min(wanted - known)
        known.add(name)
        makers: list[ast.stmt] = [functions[name]] if name in functions else []
        makers += [each for each in tree.body if not isinstance(each, _DEFINES) and name in _touched(each) and not _trains(each)]
        wanted |= {read for each in makers for read in _read(each)}
        kept += [each for each in makers if each not in kept]
    return ast.Module([each for each in tree.body if each in kept], [])


def _only_imports(statement: ast.stmt) -> bool:
    """Whether a statement only imports, as one name or else another."""
    if not isinstance(statement, ast.Try):
        return False
    inner = [*statement.body, *(each for handler in statement.handlers for each in handler.body), *statement.orelse]
    return any(isinstance(each, (ast.Import, ast.ImportFrom)) for each in inner) and not _trains(statement)


def _read(node: ast.AST) -> Iterator[str]:
    yield from (inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Load))


def _touched(statement: ast.stmt) -> set[str]:
    """The names that a statement gives a value, or whose value it changes: ``x = …``, ``x.y = …``, ``x.add_argument(…)``."""
    if isinstance(statement, ast.Expr):
        owner: ast.AST = statement.value
        while isinstance(owner, (ast.Attribute, ast.Call)):
            owner = owner.func if isinstance(owner, ast.Call) else owner.value
        return {owner.id} if isinstance(owner, ast.Name) and isinstance(statement.value, ast.Call) else set()
    stored = {inner.id for inner in ast.walk(statement) if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)}
    targets = statement.targets if isinstance(statement, ast.Assign) else ()
    for target in targets:
        while isinstance(target, (ast.Attribute, ast.Subscript)):
            target = target.value  # type: ignore[assignment]
        stored |= {target.id} if isinstance(target, ast.Name) else set()
    return stored


def _trains(statement: ast.stmt) -> bool:
    return any(
        isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute) and inner.func.attr in _TRAINS
        for inner in ast.walk(statement)
    )
