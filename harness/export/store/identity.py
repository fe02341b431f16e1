"""What a model is, as a hash: its weights, everything else it holds, its code, the task and the versions of what runs it."""

from __future__ import annotations

import ast
import importlib.machinery
import platform
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FunctionType, ModuleType

import torch

from harness.export.program import Program
from harness.export.store.code_parts import file_of_module, is_own_file, package_version
from harness.export.store.object_hash import ObjectHash, never_again
from harness.files import file_hash, json_hash
from harness.formats import Format, formats

_PACKAGES = ("torch", "numpy", "transformers", "onnx-ir")
"""Packages on which a file may depend, beside those of its format."""


def identity_of(program: Program, run: str = "") -> str:
    """A hash of everything that an export of a program depends on, or that its noise and its speed do.

    Args:
        program: The program.
        run: A name for this run of this model, where several processes share one; what cannot be read of the model is then taken for the
            same within the run. By default, it is taken for the same as nothing.
    """
    model, adapter = program.forward.model, program.forward.adapter
    objects = ObjectHash((lambda: run) if run else never_again)
    return json_hash(
        objects.of(model, adapter, program.task, program.example, program.samples),
        with_imports(own_files(objects.seen)),
        [program.fields, program.outputs, program.sizes, program.axes, program.limits],
        [str(torch.get_default_dtype()), torch.get_float32_matmul_precision()],
        versions(),
        _own_code(),
    )


@cache
def versions() -> dict[str, str]:
    """Versions of what an export or a timing may depend on."""
    found = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system()}
    for name in dict.fromkeys([*_PACKAGES, *(package for format in formats().values() for package in format.packages)]):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def code_of(exporter: type[Format]) -> str:
    """A hash of the file in which an exporter of another package is written; empty of this project's, which every identity holds."""
    if exporter.is_built_in():
        return ""
    file = getattr(sys.modules[exporter.__module__], "__file__", None)
    return file_hash(Path(file)) if file else ""


@cache
def _own_code() -> str:
    """A hash of the exporters' own code, and of what they are built on."""
    room = Path(__file__).parent.parent
    files = [
        room / "program.py",
        room.parent / "properties" / "padding.py",
        *(room / "formats").rglob("*.py"),
        *(room / "onnx").rglob("*.py"),
    ]
    return json_hash([file_hash(path) for path in sorted(files)])


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
