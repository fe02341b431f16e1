"""Values that a file makes to try its model: ``model(torch.randn(2, 3, 64, 64), t)`` under ``__main__``."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

_LARGEST_FILE = 1_000_000
_LARGEST = 1 << 24
"""Elements of an example that is taken."""

_MAKERS = (
    "randn", "rand", "linspace", "eye",
    "zeros", "ones", "empty", "randint", "full", "arange", "tensor", "LongTensor", "FloatTensor", "Tensor", "randperm",
)  # fmt: skip
_METHODS = (
    "long", "float", "int", "bool", "double", "half", "unsqueeze", "squeeze", "view", "reshape", "permute", "transpose", "contiguous", "repeat",
    "expand", "random_", "t", "requires_grad_", "type", "size", "new_tensor", "new_zeros", "new_ones", "new_full", "fill_", "flatten",
)  # fmt: skip
_SAME = ("cuda", "to", "cpu", "detach", "clone")
"""Methods that change nothing of what is passed."""

_JOINERS = ("cat", "stack", "autograd.Variable", "Variable")
_NAMES = ("float", "int", "long", "float32", "int64", "int32", "float64", "bool", "half", "double", "uint8")


class _UnknownError(Exception):
    """An expression that is not evaluated."""


def written_examples(module: ModuleType, model: nn.Module) -> dict[str, tuple[Any, str]]:
    """Values for the parameters of a model's forward, and where they are written; empty where the file has none.

    Args:
        module: The model's file, imported.
        model: The model.
    """
    path = Path(module.__file__ or "")
    parameters = list(inspect.signature(model.forward).parameters.values())
    try:
        tree = ast.parse(path.read_bytes()) if path.stat().st_size <= _LARGEST_FILE else None
    except (OSError, SyntaxError, ValueError, RecursionError):
        return {}
    calls = [call for body in _bodies(tree) for call in _calls(body, module, type(model).__name__)] if tree else []
    signature = inspect.signature(model.forward)
    best: dict[str, tuple[Any, str]] = {}
    for is_own, positional, named, line in sorted(calls, key=lambda call: not call[0]):
        try:
            bound = signature.bind_partial(*positional, **named).arguments
        except TypeError:
            continue
        values = {name: value for name, value in bound.items() if isinstance(value, (Tensor, dict))}
        needed = {p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD}
        if needed <= set(values) and (is_own or len(needed) > 1 or not best):
            found = {name: (value, f"an input that the file makes, line {line}") for name, value in values.items()}
            if is_own:
                return found
            best = best or found
    return best


def _bodies(tree: ast.Module) -> Iterator[list[ast.stmt]]:
    """Lists of statements that may call the model: the file's own, those under ``__main__``, and those of functions."""
    main = [statement for statement in tree.body if not isinstance(statement, (ast.FunctionDef, ast.ClassDef))]
    yield [
        inner for statement in main for inner in (statement.body if isinstance(statement, (ast.If, ast.With)) else [statement])
    ]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.body


def _calls(body: list[ast.stmt], module: ModuleType, cls: str) -> Iterator[tuple[bool, list[Any], dict[str, Any], int]]:
    """Calls with values that can be made, those of an object of the model's class told apart."""
    known: dict[str, Any] = {}
    models: dict[str, str] = {}
    for statement in _flat(body):
        target = _single_target(statement)
        value = statement.value if isinstance(statement, (ast.Assign, ast.AnnAssign, ast.Expr, ast.Return)) else None
        for call in (
            [node for node in ast.walk(statement) if isinstance(node, ast.Call)] if not _holds_statements(statement) else []
        ):
            name = call.func.id if isinstance(call.func, ast.Name) else ""
            made_by = models.get(name) or (_maker(call.func) if isinstance(call.func, ast.Call) else "")
            if not made_by and name.lower() not in ("model", "net", "network"):
                continue
            try:
                positional = [_value(argument, known, module) for argument in call.args]
                named = {keyword.arg: _value(keyword.value, known, module) for keyword in call.keywords if keyword.arg}
            except _UnknownError:
                continue
            if any(isinstance(item, (Tensor, dict)) for item in (*positional, *named.values())):
                yield made_by == cls, positional, named, call.lineno
        if target and value is not None:
            maker = _maker(value)
            try:
                known[target] = _value(value, known, module)
            except _UnknownError:
                known.pop(target, None)
                if maker and maker[:1].isupper() and maker not in _MAKERS:
                    models[target] = maker


def _flat(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in body:
        if isinstance(statement, (ast.With, ast.If, ast.For)):
            yield from _flat(statement.body)
        else:
            yield statement


def _holds_statements(statement: ast.stmt) -> bool:
    return hasattr(statement, "body")


def _single_target(statement: ast.stmt) -> str:
    targets = (
        statement.targets
        if isinstance(statement, ast.Assign)
        else [statement.target]
        if isinstance(statement, ast.AnnAssign)
        else []
    )
    return targets[0].id if len(targets) == 1 and isinstance(targets[0], ast.Name) else ""


def _maker(node: ast.expr) -> str:
    """The class of ``Net(…)``, ``Net(…).cuda()``, ``models.Net(…).to(device).eval()``."""
    while (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in (*_SAME, "eval", "train", "float")
    ):
        node = node.func.value
    if not isinstance(node, ast.Call):
        return ""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _value(node: ast.expr, known: Mapping[str, Any], module: ModuleType) -> Any:
    """The value of an expression of literals, sizes and functions of torch that make tensors.

    Raises:
        _UnknownError: It is something else.
    """
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, (ast.Tuple, ast.List)):
        return [_value(item, known, module) for item in node.elts]
    if isinstance(node, ast.Dict) and all(key is not None for key in node.keys):
        return {
            _value(key, known, module): _value(item, known, module)
            for key, item in zip(node.keys, node.values, strict=True)
            if key
        }
    if isinstance(node, ast.Name):
        found = known.get(node.id, getattr(module, node.id, None))
        if isinstance(found, (bool, int, float, str, Tensor, list, dict)):
            return found
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, known, module)
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, known, module), _value(node.right, known, module)
        done = {
            ast.Add: lambda: left + right,
            ast.Sub: lambda: left - right,
            ast.Mult: lambda: left * right,
            ast.FloorDiv: lambda: left // right,
            ast.Pow: lambda: left**right,
        }
        if isinstance(node.op, ast.Mult) and isinstance(left, list) and type(right) is int and len(left) * right <= _LARGEST:
            return left * right
        if type(node.op) in done and all(
            isinstance(side, (int, float, Tensor)) and not (isinstance(side, int) and side > _LARGEST) for side in (left, right)
        ):
            return _made(done[type(node.op)])
    if isinstance(node, ast.Attribute) and node.attr in _NAMES and ast.unparse(node.value) == "torch":
        return getattr(torch, node.attr)
    if (
        isinstance(node, ast.Attribute)
        and node.attr == "shape"
        and isinstance(owner := _value(node.value, known, module), Tensor)
    ):
        return list(owner.shape)
    if isinstance(node, ast.Subscript) and isinstance(owner := _value(node.value, known, module), (list, Tensor)):
        place = _value(node.slice, known, module)
        if type(place) is int:
            return _made(lambda: owner[place])
    if isinstance(node, ast.Call):
        return _called(node, known, module)
    raise _UnknownError


def _called(node: ast.Call, known: Mapping[str, Any], module: ModuleType) -> Any:
    name = ast.unparse(node.func)
    if name in _JOINERS and node.args:
        return _value(node.args[0], known, module)
    if isinstance(node.func, ast.Attribute) and node.func.attr in (*_SAME, *_METHODS):
        owner = _value(node.func.value, known, module)
        if not isinstance(owner, Tensor) or node.func.attr in _SAME:
            return owner
        arguments = [_value(argument, known, module) for argument in node.args]
        return _made(lambda: getattr(owner, node.func.attr)(*arguments))  # type: ignore[attr-defined]
    function = name.removeprefix("torch.")
    if function not in _MAKERS or not name.startswith("torch."):
        raise _UnknownError
    arguments = [_value(argument, known, module) for argument in node.args]
    named = {
        k.arg: _value(k.value, known, module)
        for k in node.keywords
        if k.arg and k.arg not in ("device", "requires_grad", "generator")
    }
    sizes = [size for argument in arguments for size in (argument if isinstance(argument, list) else [argument])]
    count = 1
    for size in sizes:
        count *= size if type(size) is int and size > 0 else 1
    if count > _LARGEST and function not in ("tensor", "LongTensor", "FloatTensor", "arange", "linspace"):
        raise _UnknownError
    return _made(lambda: getattr(torch, function)(*arguments, **named))


def _made(make: Any) -> Any:
    try:
        return make()
    except Exception:  # of a call that torch refuses
        raise _UnknownError from None
