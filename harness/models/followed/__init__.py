"""Code of a repository followed by reading it: its plain values and settings are worked out, and nothing of it runs.

Statements that cannot be followed are left out, and what they would have bound is unknown. So a training script leads to the call that makes
its model, with the arguments that its command line, its constants and its config files give by default, whatever else it does and
whatever packages it needs.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn


class UnknownError(Exception):
    """An expression whose value cannot be worked out."""


class TooLongError(Exception):
    """More steps than are followed."""


class ReachedError(Exception):
    """The call that was looked for, with its arguments."""

    def __init__(self, call: ReadCall) -> None:
        super().__init__(call)
        self.call = call


UNKNOWN = object()
"""Stands for an argument that could not be worked out."""


@dataclass(frozen=True)
class ReadCall:
    """A call with the arguments that could be worked out.

    Attributes:
        arguments: By position; ``UNKNOWN`` for those that could not.
        keywords: By name.
        file: Where it is.
        line: Its line.
        is_sure: Whether it is known what is called, rather than that its name is ``model``.
    """

    arguments: Sequence[Any]
    keywords: Mapping[str, Any]
    file: Path
    line: int
    is_sure: bool = True


class Settings(dict[str, Any]):
    """An object of settings, read by attribute and by key: a namespace, a config, a dataclass."""


@dataclass
class Scope:
    """The names of a module or of a call.

    Attributes:
        file: The module's file.
        names: Their values.
        outer: The scope around it.
    """

    file: Path
    names: dict[str, Any] = field(default_factory=dict)
    outer: Scope | None = None

    def find(self, name: str) -> Any:
        """The value of a name.

        Raises:
            UnknownError: It has none that is known.
        """
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.outer
        raise UnknownError(name)


@dataclass(frozen=True, eq=False)
class Function:
    """A function, and the object it is a method of.

    Attributes:
        node: Its code.
        scope: Where it is defined.
        owner: What is passed as its first argument; ``None`` for nothing.
    """

    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    scope: Scope
    owner: Any = None


@dataclass(frozen=True, eq=False)
class Class:
    """A class.

    Attributes:
        node: Its code.
        scope: Where it is defined.
    """

    node: ast.ClassDef
    scope: Scope


@dataclass(eq=False)
class Object:
    """An instance of a class of the repository.

    Attributes:
        cls: Its class.
        names: Its attributes.
        passed: What a module was made with, by position and by name; ``None`` for any other object.
    """

    cls: Class
    names: dict[str, Any] = field(default_factory=dict)
    passed: tuple[Sequence[Any], Mapping[str, Any]] | None = None


@dataclass(eq=False)
class Built:
    """A module that a package makes, such as a backbone of torchvision.

    Attributes:
        name: The dotted name of what makes it.
        passed: What that is called with, by position and by name.
        is_changed: Whether the script replaced a part of it.
    """

    name: str
    passed: tuple[Sequence[Any], Mapping[str, Any]]
    is_changed: bool = False


@dataclass(frozen=True)
class Outside:
    """Something of a package that is not in the repository, or a built-in.

    Attributes:
        name: Its dotted name.
    """

    name: str


@dataclass(frozen=True, eq=False)
class Method:
    """A method of a plain value, or of what stands for an object of a package.

    Attributes:
        owner: The value.
        name: The method.
    """

    owner: Any
    name: str


PLAIN = (bool, int, float, str, bytes, list, tuple, dict, set, range, type(None))
"""Types of values that are worked with."""


def opened(value: Any) -> Any:
    """A dict, and those in it, as settings."""
    if isinstance(value, Mapping):
        return Settings({str(name): opened(item) for name, item in value.items()})
    return [opened(item) for item in value] if isinstance(value, list) else value


def is_iterated(value: Any) -> bool:
    """Whether a value is one of the views and iterators that Python makes of plain values."""
    return isinstance(value, (zip, enumerate, reversed)) or type(value).__name__ in ("dict_keys", "dict_values", "dict_items")


def unknown(what: str) -> NoReturn:
    """Gives up an expression.

    Raises:
        UnknownError: Always.
    """
    raise UnknownError(what)


def gives_all(node: ast.AST, required: Collection[str]) -> bool:
    """Whether a call gives every one of several arguments by name."""
    return isinstance(node, ast.Call) and len(required) > 1 and set(required) <= {keyword.arg for keyword in node.keywords}


def is_true(value: Any) -> bool:
    """Whether a condition holds.

    Raises:
        UnknownError: It is not known, or of several values.
    """
    if isinstance(value, Outside):
        raise UnknownError("a condition")
    try:
        return bool(value)
    except Exception as error:  # an array of several values
        raise UnknownError("a condition") from error
