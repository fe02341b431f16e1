"""What the code of a factory does with an argument or a setting: compares it with words, only asks whether it holds, counts it, calls it."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections import Counter
from typing import Any


def compared_word(name: str, target: Any) -> str | None:
    """The word that the code of a factory compares an argument or setting with most often, such as a mode; ``None`` where it does with none."""
    return next(iter(compared_words(name, target)), None)


def compared_words(name: str, target: Any) -> list[str]:
    """The words that the code of a factory compares an argument or setting with: those of most comparisons first, then as in the code.

    Args:
        name: The argument or setting, also as the attribute that it is kept in.
        target: What makes the model.
    """
    words: list[str] = []
    compared = [node for node in nodes_of(target) if isinstance(node, ast.Compare)]
    for node in sorted(compared, key=lambda node: (node.lineno, node.col_offset)):
        sides = [node.left, *node.comparators]
        if any(_name_of(side) == name for side in sides):
            inner = [item for side in sides for item in (getattr(side, "elts", None) or [side])]
            words += [item.value for item in inner if isinstance(item, ast.Constant) and isinstance(item.value, str)]
    return [word for word, _ in Counter(words).most_common()]


def is_switch(name: str, target: Any) -> bool:
    """Whether the code of a factory only asks of an argument or setting whether it holds: ``if args.static:``."""
    tests = [node.test for node in nodes_of(target) if isinstance(node, (ast.If, ast.IfExp))]
    asked = [node.operand if isinstance(node, ast.UnaryOp) else node for node in tests]
    return any(_name_of(node) == name for node in asked)


def is_counted(name: str, target: Any) -> bool:
    """Whether the code of a factory takes the length of an argument: ``len(labels)``, ``len(self.labels)``."""
    calls = [node for node in nodes_of(target) if isinstance(node, ast.Call) and len(node.args) == 1]
    return any(_name_of(node.func) == "len" and _name_of(node.args[0]) == name for node in calls)


def is_called(name: str, target: Any) -> bool:
    """Whether the code of a factory calls an argument itself, as it does with a class of layers: ``block(width)``."""
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name for node in nodes_of(target)
    )


_VECTORS = re.compile(r"(?:pre_?trained|weights?|.*(?:embeddings?|vectors?|emb_?mat(?:rix)?|embedding_weights?))(?:_?\w*)")


def is_vectors(name: str, target: Any) -> bool:
    """Whether an argument is a table of trained vectors, one for each word: what makes the model reads it as one."""
    if not _VECTORS.fullmatch(name.lower()):
        return False
    try:
        source = inspect.getsource(target)
    except (OSError, TypeError):
        return False
    return (
        re.search(rf"(?:from_pretrained|nn\.Parameter|\bParameter|from_numpy|FloatTensor|copy_)\(\s*{re.escape(name)}\b", source)
        is not None
    )


_TAKES_MANY = frozenset(
    ["len", "isinstance", "issubclass", "enumerate", "zip", "map", "list", "tuple", "set", "dict", "sorted", "getattr"]
)
"""Functions whose argument is no number."""


def may_be_number(name: str, target: Any) -> bool:
    """Whether the code of a factory can be read, and takes nothing of an argument that no number has: no attribute, item, call or loop."""
    nodes = nodes_of(target)
    for node in nodes:
        taken: list[ast.AST] = []
        if isinstance(node, (ast.Attribute, ast.Subscript, ast.Starred)):
            taken = [node.value]
        elif isinstance(node, (ast.For, ast.comprehension)):
            taken = [node.iter]
        elif isinstance(node, ast.Call):
            takes_many = isinstance(node.func, ast.Name) and node.func.id in _TAKES_MANY
            taken = [node.func, *(node.args if takes_many else ()), *(each.value for each in node.keywords if each.arg is None)]
        elif isinstance(node, ast.Assign) and any(isinstance(each, (ast.Tuple, ast.List)) for each in node.targets):
            taken = [node.value]
        elif isinstance(node, ast.Compare) and any(isinstance(each, (ast.In, ast.NotIn)) for each in node.ops):
            taken = [*node.comparators]
        if any(_name_of(each) == name for each in taken):
            return False
    return bool(nodes)


def is_number_read(name: str, target: Any) -> bool:
    """Whether the code of a factory reads a setting by its name, ``args.atoms`` or ``args["atoms"]``, and takes it for what may be a number."""
    nodes = nodes_of(target)
    as_key = any(isinstance(node, ast.Subscript) and ast.unparse(node.slice) == repr(name) for node in nodes)
    return (as_key or any(isinstance(node, ast.Attribute) and node.attr == name for node in nodes)) and may_be_number(
        name, target
    )


def nodes_of(target: Any) -> list[ast.AST]:
    """The syntax tree of a factory's code as a list; empty where it cannot be read."""
    try:
        return list(ast.walk(ast.parse(textwrap.dedent(inspect.getsource(target)))))
    except (OSError, TypeError, SyntaxError):
        return []


def _name_of(node: ast.AST) -> str | None:
    found: str | None = getattr(node, "attr", getattr(node, "id", None))
    return found
