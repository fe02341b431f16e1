"""What a model's file says: it is read and not run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path


def usual_factory(path: Path, usual: str) -> str:
    """What builds the model of a file where the config does not say it: the function of the usual name, or else the only class of a whole model.

    A class of a whole model defines ``forward``, and no other class of the file uses it as a part.

    Args:
        path: The file, which is read and not run.
        usual: The name of the function.

    Returns:
        A name in the file; the usual one where the file has none, or several such classes.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return usual  # the import says what is wrong
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    models = [name for name, node in classes.items() if any(getattr(each, "name", "") == "forward" for each in node.body)]
    parts = {
        inner.id
        for name in classes
        for inner in ast.walk(classes[name])
        if isinstance(inner, ast.Name) and inner.id in classes and inner.id != name
    }
    whole = [name for name in models if name not in parts]
    names = {getattr(each, "name", "") for each in tree.body} | {
        alias.asname or alias.name for each in ast.walk(tree) if isinstance(each, ast.ImportFrom) for alias in each.names
    }
    return whole[0] if usual not in names and len(whole) == 1 else usual


def brings_data(path: Path, factory: str) -> bool:
    """Whether the model of a file has a ``train_dataloader`` of its own, which needs nothing prepared.

    One that has a ``prepare_data`` is left to those who ask for it: that downloads as a rule.

    Args:
        path: The file.
        factory: The class, or the function that makes and returns one of the file's; where there is neither, the usual one counts.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return False
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    makers = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    if factory not in (*classes, *makers):
        factory = usual_factory(path, factory)
    made = [factory] if factory in classes else _called_in(makers[factory], classes) if factory in makers else []
    hooks = {each.name for name in made[:1] for each in _methods(name, classes) if not _is_empty(each)}
    return "train_dataloader" in hooks and "prepare_data" not in hooks


def _called_in(function: ast.FunctionDef, classes: dict[str, ast.ClassDef]) -> list[str]:
    """The classes that a function returns instances of."""
    returned = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
    names = [value.func.id for value in returned if isinstance(value, ast.Call) and isinstance(value.func, ast.Name)]
    return [name for name in names if name in classes]


def _methods(name: str, classes: dict[str, ast.ClassDef]) -> Iterator[ast.FunctionDef]:
    """The methods of a class and of its bases, as far as they are in the file."""
    known = dict(classes)
    cls = known.pop(name, None)
    for each in cls.body if cls is not None else ():
        if isinstance(each, ast.FunctionDef):
            yield each
    for base in cls.bases if cls is not None else ():
        if isinstance(base, ast.Name):
            yield from _methods(base.id, known)


def _is_empty(function: ast.FunctionDef) -> bool:
    """Whether a method does nothing, or only refuses."""
    return all(
        isinstance(node, (ast.Pass, ast.Raise)) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in function.body
    )
