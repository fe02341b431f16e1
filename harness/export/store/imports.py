"""The files that code is made of: the user's own files, and those that they import, as far as they are the user's own."""

from __future__ import annotations

import ast
import importlib.machinery
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FunctionType, ModuleType

from harness.export.store.code_parts import file_of_module, is_own_file, package_version
from harness.files import file_hash

_IMPORTERS = ("import_module", "__import__")


def own_files(objects: Iterable[object]) -> set[Path]:
    """The user's own files in which classes and functions, or the classes of other objects, are written."""
    return {path for path in map(Path, _files_of(objects)) if path.suffix == ".py" and path.is_file() and is_own_file(path)}


def _files_of(objects: Iterable[object]) -> Iterator[str]:
    for thing in objects:
        if isinstance(thing, FunctionType):
            yield thing.__code__.co_filename
        elif isinstance(thing, ModuleType):
            yield getattr(thing, "__file__", None) or ""
        elif isinstance(thing, type):
            yield file_of_module(thing.__module__)


def with_imports(files: Iterable[Path]) -> dict[str, str]:
    """Files with what they import, wherever in them, and so on: the hash of each of the user's own, the version of each package.

    An import that no run of the code reaches counts too, and so does one that a function makes when it is called.
    """
    found: dict[str, str] = {}
    waiting = sorted(files)
    while waiting:
        path = waiting.pop()
        if str(path) in found:
            continue
        found[str(path)] = file_hash(path)
        for name, level in _imported(path):
            inner = _find(path, name, level)
            if not inner and not level and (number := package_version(name)):
                found[name.partition(".")[0]] = number
            waiting += [file for file in inner if is_own_file(file)]
    return found


def _imported(path: Path) -> set[tuple[str, int]]:
    """Names that a file imports, each with its leading dots counted."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, ValueError, SyntaxError):  # it changed since it was imported
        return set()
    names: set[tuple[str, int]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {(alias.name, 0) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            names |= {(".".join(filter(None, (base, alias.name))), node.level) for alias in node.names}
        elif isinstance(node, ast.Call) and _is_importer(node.func) and node.args and isinstance(node.args[0], ast.Constant):
            names.add((str(node.args[0].value), 0))
    return names


def _is_importer(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in _IMPORTERS


def _find(importer: Path, name: str, level: int) -> list[Path]:
    """The files that an import runs, without running it: of each package on the way its ``__init__``, and the module."""
    parts = [part for part in name.split(".") if part]
    if level:
        return _below(importer.parents[level - 1], parts)
    # A file's own folder comes first on the path when a model file is imported, whatever another model's import left there since.
    return _below(importer.parent, parts) or _below_known(parts)


def _below(folder: Path, parts: list[str]) -> list[Path]:
    """The files of a dotted name below a folder; a last part that is no file is a name in the one before."""
    found = []
    for part in parts:
        here = [path for path in (folder / part / "__init__.py", folder / f"{part}.py") if path.is_file()][:1]
        if not here and not (folder / part).is_dir():
            break
        found += here
        folder = folder / part
    return found


def _below_known(parts: list[str]) -> list[Path]:
    """The files of a dotted name whose first part is imported, or can be."""
    top = sys.modules.get(parts[0]) if parts else None
    places = [*getattr(top, "__path__", ())]
    own = getattr(top, "__file__", None)
    if top is None and parts and parts[0] not in sys.stdlib_module_names:
        spec = importlib.machinery.PathFinder.find_spec(parts[0])
        own = spec.origin if spec is not None else None
        places = list(spec.submodule_search_locations or ()) if spec is not None else []
    files = [Path(own)] if own and own.endswith(".py") and is_own_file(Path(own)) else []
    if not files and not places:
        return []
    inner = [file for place in places if is_own_file(Path(place)) for file in _below(Path(place), parts[1:])]
    return [*files, *inner]
