"""Values that a repository makes to try its model: ``model(torch.randn(2, 3, 64, 64), t)`` in its file, tests, demos and README."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from harness.models.followed.call_sites import found_inputs
from harness.runtime import seeded

_MOST = 40
"""Calls that are looked at."""


def written_examples(module: ModuleType, model: nn.Module) -> dict[str, tuple[Any, str]]:
    """Values for the parameters of a model's forward, and where they are written; empty where the repository has none.

    Args:
        module: The model's file, imported.
        model: The model.
    """
    signature = inspect.signature(model.forward)
    needed = {p.name for p in signature.parameters.values() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD}
    own = Path(module.__file__ or "").resolve()
    best: dict[str, tuple[Any, str]] = {}
    with seeded(0):
        for call in islice(found_inputs(type(model), tuple(_makers(module, type(model).__name__))), _MOST):
            try:
                bound = signature.bind_partial(*call.arguments, **call.keywords).arguments
            except TypeError:
                continue
            values = {name: value for name, value in bound.items() if _is_passed(value)}
            if not values or not needed <= set(values) or not (call.is_sure or len(needed) > 1 or not best):
                continue
            if not call.is_sure and call.file != own:
                continue
            place = f"line {call.line}" if call.file == own else f"{call.file.name}, line {call.line}"
            whose = "the file" if call.file == own else "the repository"
            found = {name: (value, f"an input that {whose} makes, {place}") for name, value in values.items()}
            if call.is_sure:
                return found
            best = best or found
    return best


def _is_passed(value: Any) -> bool:
    """Whether a value is a tensor, or several that are passed together."""
    if isinstance(value, dict):
        return bool(value) and all(isinstance(name, str) for name in value) and all(map(_is_passed, value.values()))
    return isinstance(value, Tensor) or (isinstance(value, (list, tuple)) and bool(value) and all(map(_is_passed, value)))


def _makers(module: ModuleType, name: str) -> Iterator[str]:
    """The functions of a file that speak of a class."""
    try:
        tree = ast.parse(Path(module.__file__ or "").read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and re.search(rf"\b{re.escape(name)}\(", ast.unparse(node)):
            yield node.name
