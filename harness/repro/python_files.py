"""The user's own Python files: a model's file, and whatever it imports from its folder."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.repro.errors import ReproError

_OURS = ("harness", "pytest_modeltiers")
_IMPORTERS = ("import_module", "__import__")


@dataclass(frozen=True)
class OwnCode:
    """Python files of one folder.

    Attributes:
        folder: The folder.
        files: The files, sorted.
        outside: Top-level names of the modules they import from elsewhere.
        read: Other files in their folders that are named in their texts, and so may be read.
    """

    folder: Path
    files: tuple[Path, ...]
    outside: frozenset[str]
    read: tuple[Path, ...]


def code_of_file(file: Path) -> OwnCode:
    """A Python file, and the files of its folder that it imports, directly or through others; packages are taken whole.

    Raises:
        ReproError: One of them is no Python.
    """
    return _follow(file.parent, [file])


def code_of_module(name: str, folder: Path) -> OwnCode | None:
    """The files of a module that lies in a folder, and what they import from it; ``None`` where it lies elsewhere.

    Raises:
        ReproError: One of them is no Python.
    """
    found = _beside(folder, name.partition(".")[0])
    return _follow(folder, found) if found else None


def _follow(folder: Path, waiting: list[Path]) -> OwnCode:
    files: set[Path] = set()
    outside: set[str] = set()
    read: set[Path] = set()
    while waiting:
        file = waiting.pop()
        if file in files:
            continue
        files.add(file)
        tree = _parse(file)
        for name in _imported(tree):
            beside = _beside(folder, name)
            waiting += beside
            outside.update([] if beside else [name])
        read.update(_named_files(tree, file.parent))
    return OwnCode(folder, tuple(sorted(files)), frozenset(outside), tuple(sorted(read)))


def _beside(folder: Path, name: str) -> list[Path]:
    """The files of a module or package in a folder, in the order in which Python looks; empty where it is not there."""
    package, module = folder / name, folder / f"{name}.py"
    if name in _OURS:
        return []
    if module.is_file() and not (package / "__init__.py").is_file():
        return [module]
    return sorted(package.rglob("*.py")) if package.is_dir() else []


def _parse(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes(), str(file))
    except OSError as error:
        raise ReproError(f"{file} cannot be read: {error.strerror or error}") from None
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ReproError(f"{file} is no Python that can be read: {str(error).splitlines()[0]}") from None


def _imported(tree: ast.Module) -> Iterator[str]:
    """Top-level names of what a file imports; relative imports stay within their package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and node.args and _called(node.func) in _IMPORTERS:
            name = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
            if isinstance(name, str) and not name.startswith("."):
                yield name.partition(".")[0]


def _called(function: ast.expr) -> str:
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")


def _named_files(tree: ast.Module, folder: Path) -> Iterator[Path]:
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and 0 < len(text) < 200 and text.isprintable() and not text.endswith(".py"):
            path = folder / text
            if path.is_file():
                yield path
