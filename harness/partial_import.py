"""A file of the user's of which only the part runs that its models need, as importing all of it would train a model or raise."""

from __future__ import annotations

import ast
import importlib.machinery
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType

from harness.scan import part_run
from harness.scan.needed import needed_part

LEFT_OUT: dict[str, str] = {}
"""Files of which only a part was run, and why: ``line 53 trains a model``."""


def run_part(module: ModuleType, tree: ast.Module, why: str) -> None:
    """Runs statements of a file in its module.

    Args:
        module: The module.
        tree: The statements, with the lines that they have in the file.
        why: Why not all of the file runs.
    """
    file = str(module.__file__)
    LEFT_OUT[file] = why
    exec(compile(tree, file, "exec", dont_inherit=True), vars(module))


def part_without(path: Path, line: int) -> ast.Module | None:
    """The part of a file that its models need; ``None`` where they need a line, or there are none.

    Args:
        path: The file.
        line: A line of it that raises.
    """
    try:
        part = needed_part(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None
    return part.tree if part is not None and line not in part.needed else None


@contextmanager
def imported_in_part(folders: Collection[str]) -> Iterator[None]:
    """In a block, files that are imported from some folders run in part too, where importing all of them would train a model.

    Args:
        folders: The folders.
    """
    finder = _Finder(folders)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder:
    def __init__(self, folders: Collection[str]) -> None:
        self._folders = folders

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or type(spec.loader) is not SourceFileLoader or spec.origin is None:
            return None
        if str(Path(spec.origin).parent) not in self._folders:
            return None
        spec.loader = _Loader(name, spec.origin)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        part = part_run(Path(self.path))
        if part is None:
            super().exec_module(module)
        else:
            run_part(module, part.tree, part.why)
