"""The files that a config names: where they are, and where they go in a bundle."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import did_you_mean
from harness.repro.config_paths import OUTPUTS, files_named, is_inside, text_at, with_paths
from harness.repro.errors import ReproError
from harness.repro.python_files import OwnCode, code_of_file, code_of_module

DATA_LIMIT = 64 << 20
"""Bytes of data that a bundle holds; of more it has the hashes alone."""

_DATA, _WEIGHTS, _MODEL, _ADAPTER = "data", "weights", "model", "adapter"


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
    _add_data(contents, {key: found[key] for key in ("train.path", "eval.path") if key in found}, places, data_limit)
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
                f"{name!r} is no name that every system takes: rename the file, without colons, backslashes and line ends"
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
    """Adds the files of model and adapter; those of one folder stay together, so that they import each other as before."""
    folders: dict[Path, str] = {}
    for key, name in (("model_file", _MODEL), ("adapter", _ADAPTER)):
        if key in found:
            path = _plain_file(key, found[key])
            place = folders.setdefault(path.parent, _MODEL if not folders and key == "adapter" else name)
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
            f"the code names {names}, which the bundle does not hold: of the user's own files it has the Python ones alone"
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
            f"the data is not in the bundle, as its {total} bytes are more than {limit}: a rerun needs --data-dir, and checks each file's sha256"
        )


def free_place(folder: str, path: Path, taken: Mapping[str, Path]) -> str:
    """A name that ends like the path's own; in a subfolder where another file has it."""
    for place in (folder, *(f"{folder}/{number}" for number in range(2, len(taken) + 3))):
        name = f"{place}/{path.name}"
        if not any(other == name or other.startswith(f"{name}/") or name.startswith(f"{other}/") for other in taken):
            return name
    raise AssertionError("one of them is free")
