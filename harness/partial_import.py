"""A file of the user's of which only the part runs that its models need, as importing all of it would train a model or raise.

A package that is not installed and that only other parts of the model's repository need is stood in for, see `standing_in`.
"""

from __future__ import annotations

import ast
import builtins
import importlib.machinery
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any, NoReturn

from harness.errors import ModelSourceError
from harness.scan import part_run
from harness.scan.needed import needed_part

LEFT_OUT: dict[str, str] = {}
"""Files of which only a part was run, and why: ``line 53 trains a model``."""

MISSING: set[str] = set()
"""Modules that are not installed and that are stood in for."""


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


def others_need(file: Path, error: BaseException, is_written_here: Callable[[str], bool]) -> bool:
    """Whether a module that is not installed is imported by another file than the model's, which may do without; it is stood in for then.

    Args:
        file: The model's file.
        error: What importing it raised.
        is_written_here: Whether a file is the user's own.
    """
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    own = [each.filename for each in traceback.extract_tb(error.__traceback__) if is_written_here(each.filename)]
    if not missing or missing in MISSING or not own or own[-1] == str(file):
        return False
    MISSING.add(missing)
    return True


@contextmanager
def or_as_first(refused: str) -> Iterator[None]:
    """Raises what was raised before a package was stood in for, where importing goes wrong for another reason now."""
    try:
        yield
    except ModelSourceError as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            raise
        raise ModelSourceError(refused) from error


@contextmanager
def standing_in(is_written_here: Callable[[str], bool]) -> Iterator[None]:
    """In a block, imports of what is `MISSING` give something that may be named, inherited from and called while a file is imported.

    Only a statement of the user's own gets it, outside of functions, and none that a ``try`` guards, as that has its own way to go on.
    Whatever uses it later raises the error that the import would have raised, so that a model which needs the package is not judged
    without it.

    Args:
        is_written_here: Whether a file is the user's own.
    """
    if not MISSING:
        yield
        return
    original = builtins.__import__

    def lenient(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        try:
            return original(name, globals, locals, fromlist, level)
        except ModuleNotFoundError as error:
            frame, missing = inspect.currentframe(), error.name or ""
            importer = frame.f_back if frame else None
            wanted = importlib.util.resolve_name("." * level + name, globals["__package__"]) if level else name
            is_it = f"{wanted}.".startswith(f"{missing}.") and (fromlist or "." not in missing)
            if missing not in MISSING or not is_it or importer is None or not _goes_on_without(importer, is_written_here):
                raise
            file, line = importer.f_code.co_filename, importer.f_lineno
            LEFT_OUT.setdefault(file, f"line {line} imports `{missing}`, which is not installed")
            return _absent(missing)

    builtins.__import__ = lenient
    try:
        yield
    finally:
        builtins.__import__ = original


def _goes_on_without(importer: FrameType, is_written_here: Callable[[str], bool]) -> bool:
    """Whether an import is a statement of the user's outside of functions, and nothing catches that it fails."""
    if not is_written_here(importer.f_code.co_filename) or _is_of_function(importer.f_code):
        return False
    frame: FrameType | None = importer
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith("<") and is_written_here(file) and frame.f_lineno in _guarded_lines(file):
            return False
        frame = frame.f_back
    return True


def _is_of_function(code: CodeType) -> bool:
    return bool(code.co_flags & inspect.CO_OPTIMIZED)


@cache
def _guarded_lines(file: str) -> frozenset[int]:
    """The lines of a file whose import errors are caught."""
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return frozenset()
    guards = [node for node in ast.walk(tree) if isinstance(node, ast.Try) and any(map(_catches_import_errors, node.handlers))]
    return frozenset(
        line for node in guards for each in node.body for line in range(each.lineno, (each.end_lineno or each.lineno) + 1)
    )


def _catches_import_errors(handler: ast.ExceptHandler) -> bool:
    caught = ast.unparse(handler.type) if handler.type is not None else "Exception"
    return any(name in caught for name in ("ImportError", "ModuleNotFoundError", "Exception"))


class _Absent(type):
    """What stands for a package that is not installed, and for all that is read from it."""

    missing: str

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _absent(cls.missing)

    def __call__(cls, *_args: Any, **_kwargs: Any) -> Any:
        frame = inspect.currentframe()
        caller = frame.f_back if frame else None
        return cls._refuse() if caller is None or _is_of_function(caller.f_code) else _absent(cls.missing)

    def __getitem__(cls, _item: Any) -> Any:
        return cls

    def _refuse(cls) -> NoReturn:
        raise ModuleNotFoundError(f"No module named {cls.missing!r}", name=cls.missing)

    __bool__ = __len__ = __iter__ = _refuse


def _absent(missing: str) -> Any:
    return _Absent("absent", (), {"missing": missing})
