"""What a file says of its model elsewhere: calls with literal arguments, and tensors that it makes to try the model."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

_LARGEST_FILE = 1_000_000
_MANY_FILES = 100
_MAKERS = ("randn", "rand", "zeros", "ones", "empty", "randint")
"""Functions of torch that make a tensor of a shape."""

_UNKNOWN = object()


@dataclass(frozen=True)
class WrittenCall:
    """A call of a callable with arguments that can be read from the source.

    Attributes:
        kwargs: The arguments by name.
        place: The file and line.
        complete: Whether every argument could be read.
    """

    kwargs: dict[str, Any]
    place: str
    complete: bool = True


@dataclass(frozen=True)
class WrittenCalls:
    """The calls and shapes in the source of a module, and the calls in the files beside it.

    Attributes:
        calls: Calls by the last part of the name that is called, those of the file itself first.
        shapes: Shapes of tensors that the file makes.
    """

    calls: dict[str, list[WrittenCall]]
    shapes: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def of(cls, module: ModuleType) -> WrittenCalls:
        """Reads a module's file, and the calls of its names in the other files of its folder."""
        path = Path(module.__file__ or "")
        names = {name: value for name, value in vars(module).items() if callable(value) and not name.startswith("__")}
        calls: dict[str, list[WrittenCall]] = {}
        tree = _parsed(path)
        own = list(_calls(tree, names, vars(module), path.name)) if tree else []
        others = (file for file in sorted(path.parent.glob("*.py"))[:_MANY_FILES] if file != path)
        beside = [call for file in others if (other := _parsed(file)) for call in _calls(other, names, {}, file.name)]
        for name, call in (*own, *beside):
            calls.setdefault(name, []).append(call)
        return cls(calls, tuple(dict.fromkeys(_shapes(tree, vars(module)))) if tree else ())

    def first(self, name: str) -> WrittenCall | None:
        """The first call of a name whose arguments can all be read."""
        return next((call for call in self.calls.get(name, ()) if call.complete), None)

    def places(self, name: str) -> list[str]:
        """Where a name is called."""
        return [call.place for call in self.calls.get(name, ())]


def _parsed(path: Path) -> ast.Module | None:
    try:
        return ast.parse(path.read_bytes()) if path.stat().st_size <= _LARGEST_FILE else None
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None


def _calls(tree: ast.Module, names: dict[str, Any], known: dict[str, Any], file: str) -> Iterator[tuple[str, WrittenCall]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in names:
            yield name, _bound(node, names[name], known, f"{file}, line {node.lineno}")


def _bound(node: ast.Call, target: Any, known: dict[str, Any], place: str) -> WrittenCall:
    """A call with its arguments by name."""
    try:
        signature = inspect.signature(target)
        starred = any(isinstance(argument, ast.Starred) for argument in node.args) or any(k.arg is None for k in node.keywords)
        given = signature.bind(*node.args, **{keyword.arg or "": keyword.value for keyword in node.keywords}).arguments
    except (TypeError, ValueError):
        return WrittenCall({}, place, complete=False)
    single = {name: value for name, value in given.items() if isinstance(value, ast.expr)}
    values = {name: _value(value, known) for name, value in single.items()}
    complete = not starred and len(single) == len(given) and _UNKNOWN not in values.values()
    return WrittenCall({name: value for name, value in values.items() if value is not _UNKNOWN}, place, complete)


def _value(node: ast.expr, known: dict[str, Any]) -> Any:
    """The literal that an expression is, or the plain value of a name of the module."""
    if isinstance(node, ast.Name):
        value = known.get(node.id, _UNKNOWN)
        return value if isinstance(value, (bool, int, float, str)) else _UNKNOWN
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return _UNKNOWN
    return value if _is_plain(value) else _UNKNOWN


def _is_plain(value: Any) -> bool:
    """Whether a config file can hold a value as it is; a tuple becomes a list there, which most models take as well."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, (bool, int, float, str))


def _shapes(tree: ast.Module, known: dict[str, Any]) -> Iterator[tuple[int, ...]]:
    """Shapes in calls such as ``torch.randn(2, 3, 224, 224)``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _MAKERS:
            arguments = node.args
            inner = next((a for a in arguments if isinstance(a, (ast.Tuple, ast.List))), None)
            sizes = [_value(argument, known) for argument in (inner.elts if inner is not None else arguments)]
            if len(sizes) >= 2 and all(type(size) is int and size > 0 for size in sizes):
                yield tuple(sizes)
