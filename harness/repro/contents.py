"""The files that a config names, with the user's own Python files that these import: where they are, and where they go in a bundle."""

from __future__ import annotations

import ast
import copy
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.documents import flat
from harness.errors import did_you_mean
from harness.repro.manifest import ReproError, is_inside

_PYTHON_DATA = ("train.dataset", "train.datamodule", "eval.dataset", "eval.datamodule")
INPUTS = (
    *("model", "model_file", "adapter", "example", "loss", "weights", "resume_from_checkpoint", "train.path", "eval.path"),
    *_PYTHON_DATA,
)
"""Files that a training reads. Functions of outputs and labels, such as ``outputs.scores.loss``, are files too."""

OUTPUTS = {"checkpoint_dir": "checkpoints", "export.export_dir": "exports", "db_path": "experiments.db"}
"""Files and folders that it writes, and what they are called in a bundle."""


def text_at(config: Mapping[str, Any], key: str) -> str | None:
    """The text at a key; ``None`` where there is none."""
    found: Any = config
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found if isinstance(found, str) else None


def is_function(key: str) -> bool:
    """Whether a key may name something in a file, as ``file.py:name``."""
    return key in _PYTHON_DATA or key.partition(".")[0] in ("adapter", "example", "loss", "outputs", "labels", "metrics")


def files_named(config: Mapping[str, Any]) -> dict[str, str]:
    """The file or folder that each of ``INPUTS`` names; of ``file.py:name`` the file, and what is built in is no file."""
    declared = {group: config[group] for group in ("loss", "outputs", "labels") if isinstance(config.get(group), Mapping)}
    functions = {key: text for key, text in flat(declared).items() if isinstance(text, str)}
    functions |= {f"metrics.{place}": str(name) for place, name in enumerate(config.get("metrics") or ()) if ":" in str(name)}
    found = {key: text_at(config, key) for key in INPUTS} | functions
    return {key: file for key, text in found.items() if text is not None and (file := _file_of(key, text))}


def _file_of(key: str, text: str) -> str:
    """The file in a key's text; empty where it names none."""
    if not is_function(key):
        return text
    file, separator, _ = text.rpartition(":")
    return file if separator and file.endswith(".py") else ""


def with_paths(config: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, Any]:
    """A copy of a config that names other files; of ``file.py:name`` the name stays."""
    new: dict[str, Any] = copy.deepcopy(dict(config))
    for key, place in places.items():
        groups = key.split(".")
        inner: Any = new
        for group in groups[:-1]:
            inner = inner[group]
        last: Any = int(groups[-1]) if isinstance(inner, list) else groups[-1]
        inner[last] = f"{place}:{inner[last].rpartition(':')[2]}" if is_function(key) else place
    return new


DATA_LIMIT = 64 << 20
"""Bytes of data that a bundle holds; of more it has only the hashes."""

_DATA, _WEIGHTS = "data", "weights"
_CODE = ("model", "adapter")
"""Folders of a bundle for the user's code, in the order in which the config names it."""


@dataclass
class Contents:
    """What a bundle takes from the disk.

    Attributes:
        config: The config, its paths relative to the bundle.
        files: Files by their name in the bundle.
        external: Data files that are too large for it, by the name they would have.
        imports: Top-level names of the modules that the user's code imports from elsewhere.
        notes: What a rerun should know, a sentence each.
    """

    config: dict[str, Any]
    files: dict[str, Path] = field(default_factory=dict)
    external: dict[str, Path] = field(default_factory=dict)
    imports: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    @property
    def data_names(self) -> list[str]:
        """Names of all data files."""
        return [name for name in (*self.files, *self.external) if name.startswith(f"{_DATA}/")]


def collect(config: Mapping[str, Any], folder: Path, data_limit: int = DATA_LIMIT) -> Contents:
    """Finds what a config names.

    Args:
        config: The config.
        folder: What its paths are relative to.
        data_limit: Bytes of data files that the bundle takes in, all together; of more it takes none.

    Raises:
        ReproError: Something is missing, or has a name that no other system would take.
    """
    found = {key: _existing(key, value, folder) for key, value in files_named(config).items()}
    contents = Contents(dict(config))
    places: dict[str, str] = {}
    _add_code(contents, found, places)
    _add_module(contents, text_at(config, "model_import"), folder)
    for key in ("weights", "resume_from_checkpoint"):
        if key in found:
            places[key] = free_place(_WEIGHTS, found[key], contents.files)
            contents.files[places[key]] = _plain_file(key, found[key])
    _add_data(contents, {key: found[key] for key in ("model", "train.path", "eval.path") if key in found}, places, data_limit)
    written = {key: place for key, place in OUTPUTS.items() if text_at(config, key) is not None}
    # Checkpoints would otherwise go by the run's name, which may be no name of a folder.
    own = {key: OUTPUTS[key] for key in ("checkpoint_dir", "db_path")}
    contents.config = {**with_paths(config, {**places, **written}), **own}
    check_names((*contents.files, *contents.external))
    return contents


def check_names(names: Iterable[str]) -> None:
    """Refuses names that not every system takes.

    Raises:
        ReproError: There is one.
    """
    for name in names:
        if not is_inside(name):
            raise ReproError(
                f"{name!r} is not a valid file name on every system: rename the file without colons, backslashes and line breaks"
            )


def files_below(path: Path) -> dict[str, Path]:
    """Every file of a folder by its relative name, or a file by its own."""
    if not path.is_dir():
        return {path.name: path}
    found = {file.relative_to(path): file for file in _walk(path) if file.is_file()}
    return {f"{path.name}/{name.as_posix()}": file for name, file in sorted(found.items()) if not name.parts[0].startswith(".")}


def _walk(path: Path) -> Iterator[Path]:
    """Everything below a folder, by way of links too, each folder once."""
    seen: set[str] = set()
    for parent, folders, names in os.walk(path, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link to a folder above would never end
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(parent) / name for name in names)


def _existing(key: str, value: str, folder: Path) -> Path:
    path = (folder / Path(value).expanduser()).resolve()
    if not path.exists():
        near = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ReproError(
            f"`{key}`: no such file {path}.{did_you_mean(path.name, near)} A bundle needs what the run was trained from"
        )
    return path


def _plain_file(key: str, path: Path) -> Path:
    if not path.is_file():
        raise ReproError(f"`{key}`: {path} is a folder, expected a file")
    return path


def _add_code(contents: Contents, found: Mapping[str, Path], places: dict[str, str]) -> None:
    """Adds the files of model, adapter and losses; those of one folder stay together, so that they import each other as before."""
    folders: dict[Path, str] = {}
    for key in found:
        if key == "model_file" or is_function(key):
            path = _plain_file(key, found[key])
            place = folders.setdefault(path.parent, _CODE[len(folders)] if len(folders) < len(_CODE) else f"code{len(folders)}")
            places[key] = f"{place}/{path.name}"
            _add_own(contents, code_of_file(path), f"{place}/")


def _add_module(contents: Contents, name: str | None, folder: Path) -> None:
    """Adds a module that lies beside the config, where a rerun finds it too; of an installed one the version is enough."""
    if name is None:
        return
    code = code_of_module(name.partition(":")[0], folder)
    if code is None:
        contents.imports.add(name.partition(":")[0].partition(".")[0])
    else:
        _add_own(contents, code, "")


def _add_own(contents: Contents, code: OwnCode, place: str) -> None:
    for file in code.files:
        contents.files[f"{place}{file.relative_to(code.folder).as_posix()}"] = file
    contents.imports |= code.outside
    names = ", ".join(file.name for file in code.read)
    if names:
        contents.notes.append(
            f"the code names {names}, which the bundle does not contain: of your own files it contains only Python files"
        )


def _add_data(contents: Contents, sources: Mapping[str, Path], places: dict[str, str], limit: int) -> None:
    by_path: dict[Path, str] = {}
    files: dict[str, Path] = {}
    for key, path in sources.items():
        if path not in by_path:
            by_path[path] = free_place(_DATA, path, files)
            parent = by_path[path].rpartition("/")[0]
            files.update({f"{parent}/{name}": file for name, file in files_below(path).items()})
        places[key] = by_path[path]
    total = sum(file.stat().st_size for file in files.values())
    (contents.files if total <= limit else contents.external).update(files)
    if total > limit:
        contents.notes.append(
            f"the data is not in the bundle because its {total} bytes exceed {limit}: a rerun needs --data-dir, and checks each file's sha256"
        )


def free_place(folder: str, path: Path, taken: Mapping[str, Path]) -> str:
    """A name that ends like the path's own; in a subfolder where another file has it."""
    for place in (folder, *(f"{folder}/{number}" for number in range(2, len(taken) + 3))):
        name = f"{place}/{path.name}"
        if not any(other == name or other.startswith(f"{name}/") or name.startswith(f"{other}/") for other in taken):
            return name
    raise AssertionError("one of them is free")


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
        raise ReproError(f"{file} cannot be parsed as Python: {str(error).splitlines()[0]}") from None


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
