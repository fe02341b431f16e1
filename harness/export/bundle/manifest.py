"""The manifest of a bundle: the sha256 and size of every other file, and whether they still have them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import Any

from harness.export.bundle.draft import Draft
from harness.export.formats.exporter import ExportError
from harness.files import file_hash

KIND = "pytest-modeltiers bundle"
MANIFEST, SIGNATURE, GOLDEN, INFERENCE = "manifest.json", "signature.json", "golden/golden.json", "inference.py"
"""Names of files that a bundle always has."""

VERSION = 1
"""Of what is in a bundle and where; another version is not read."""


def make_manifest(draft: Draft, layouts: Sequence[str]) -> dict[str, Any]:
    """What a bundle is, and the sha256 and size of every file that is in it so far."""
    paths = {name: draft.folder / name for name in files_in(draft.folder)}
    return {
        "kind": KIND,
        "version": VERSION,
        "created": draft.created,
        "tool": draft.tool,
        "model": draft.signature["model"],
        "identity": draft.identity,
        "formats": {format: artifact["file"] for format, artifact in draft.artifacts.items()},
        "layouts": list(layouts),
        "files": {name: {"sha256": file_hash(path), "bytes": path.stat().st_size} for name, path in sorted(paths.items())},
    }


def files_in(folder: Path) -> Iterator[str]:
    """Relative names of everything below a folder that is no folder itself; links are named, and not followed."""
    for parent, folders, names in os.walk(folder):
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        yield from sorted((Path(parent) / name).relative_to(folder).as_posix() for name in (*names, *links))


def listed_in(folder: Path) -> set[str] | None:
    """Names of the files of a bundle; ``None`` of a folder that is none."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return {*found["files"], MANIFEST} if found["kind"] == KIND else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a bundle.

    Raises:
        ExportError: The folder has none that can be read.
    """
    path = folder / MANIFEST
    if not path.is_file() or path.is_symlink():
        raise ExportError(f"{folder} is no bundle: it has no {MANIFEST}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(
            f"{path} cannot be read, so nothing can be said of the bundle: {type(error).__name__}: {error}"
        ) from None
    if not isinstance(found, dict) or found.get("kind") != KIND:
        raise ExportError(f"{folder} is no bundle: its {MANIFEST} is something else's")
    return found


def parse_manifest(manifest: dict[str, Any]) -> tuple[dict[str, tuple[str, int]], dict[str, str]]:
    """Sha256 and size of each file, and the file of each format.

    Raises:
        ValueError: Something is missing, or names a place outside the bundle.
    """
    if manifest["version"] != VERSION:
        raise ValueError(f"it has version {manifest['version']}, and this project reads version {VERSION}")
    listed = {str(name): (str(entry["sha256"]), int(entry["bytes"])) for name, entry in manifest["files"].items()}
    formats = {str(format): str(name) for format, name in manifest["formats"].items()}
    for name in listed:
        if not _inside(name):
            raise ValueError(f"{name!r} is no path inside the bundle, refused")
    for name in (*formats.values(), GOLDEN, SIGNATURE, INFERENCE):
        if name not in listed:
            raise ValueError(f"it does not list {name}")
    return listed, formats


def mistakes_in(folder: Path, listed: Mapping[str, tuple[str, int]]) -> Iterator[str]:
    """What is wrong with the files, a sentence each; only plain files are opened."""
    present = {*files_in(folder)} - {MANIFEST}
    for name in sorted(present - listed.keys()):
        hint = " (an import of inference.py leaves it)" if "__pycache__" in name else ""
        yield f"{name} is not in the manifest{hint}; delete it"
    for name, (sha256, size) in listed.items():
        path = folder / name
        if name not in present:
            yield f"{name} is missing"
        elif not S_ISREG(path.lstat().st_mode):
            yield f"{name} is a link or no plain file, refused"
        elif path.stat().st_size != size:
            yield f"{name} has {path.stat().st_size} bytes instead of {size}"
        elif file_hash(path) != sha256:
            yield f"{name} was changed: its sha256 is another one"


def _inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return name == "/".join(parts) and parts != () and ".." not in parts and not {"\\", ":", "\0"} & {*name}
