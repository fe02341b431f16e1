"""What is known of values while code is followed: constants, and names that hold them."""

from __future__ import annotations

import ast
from typing import Any

Environment = dict[str, Any]
"""Known values by name; ``self.x`` stands for an attribute of the instance."""


class Unknown:
    """Stands for a value that is not known."""


UNKNOWN = Unknown()

_NEVER = ("TYPE_CHECKING", "typing.TYPE_CHECKING", "t.TYPE_CHECKING")


def value_of(node: ast.expr | None, known: Environment) -> Any:
    """The value of an expression, as far as it follows from what is known.

    Args:
        node: The expression.
        known: The values of names.
    """
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
