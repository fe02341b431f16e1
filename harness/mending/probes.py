"""Changes that are no mendings, and show which line it depends on whether a property holds."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from harness.mending.edits import Rule, Scope, adding_to, arguments, call_text, called

PROBES: list[Rule] = []
probe = adding_to(PROBES, is_known=False)


@probe("another switch", 6)
def _constant_switch(node: ast.AST, scope: Scope) -> Iterator[str]:
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and type(node.value.value) is bool:
        yield f"{' = '.join(scope.text(each) for each in node.targets)} = {not node.value.value}"


@probe("one of two", 6)
def _one_of_two(node: ast.AST, scope: Scope) -> Iterator[str]:
    if isinstance(node, ast.IfExp):
        yield scope.text(node.body)
        yield scope.text(node.orelse)
    if isinstance(node, ast.AugAssign):
        yield f"{scope.text(node.target)} = {scope.text(node.value)}"
    if isinstance(node, ast.Call) and any(word.arg == "reduction" for word in node.keywords):
        yield scope.text(node).replace('"sum"', '"mean"').replace("'sum'", "'mean'")


@probe("what was left out", 7)
def _left_out(node: ast.AST, scope: Scope) -> Iterator[str]:
    if not isinstance(node, ast.Call) or called(node) in ("isinstance", "len", "range", "super", "print"):
        return
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
            for other in [*others, *(["None"] if number else [])]:
                yield call_text(node, scope, [*args[:number], other, *rest], keywords)
        elif isinstance(value, ast.Constant) and value.value is None and scope.owner is not None:
            for name in ("bias", "mask"):
                found = [t for t in _attributes(scope.owner) if t.endswith(f".{name}")]
                for other in found[:3]:
                    yield call_text(node, scope, [*args[:number], other, *rest], keywords)


def _attributes(owner: ast.ClassDef) -> list[str]:
    found = (ast.unparse(node) for node in ast.walk(owner) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load))
    return list(dict.fromkeys(text for text in found if text.startswith("self.")))


@probe("another number", 9)
def _number(node: ast.AST, scope: Scope) -> Iterator[str]:
    if isinstance(node, ast.Constant) and type(node.value) is int and abs(node.value) < 100:
        yield from (f"{node.value + 1}", f"{node.value - 1}" if node.value > 0 else "(-1)")
        if node.value == 1:
            yield from scope.parameters[:4]


@probe("without it", 10)
def _without(node: ast.AST, scope: Scope) -> Iterator[str]:
    if isinstance(node, (ast.Expr, ast.Assign, ast.AugAssign)) and not (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ):
        yield "pass"
