"""The folder of a bundle: written aside with a manifest of every file, and put in place whole."""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import Any

from filelock import FileLock, Timeout

from harness.errors import UserError
from harness.export.exports import Exports
from harness.export.formats import ExportError
from harness.export.store import Artifact, Cache, Manifest, find_artifact, manifest_path
from harness.files import file_hash, json_hash


@dataclass(frozen=True)
class Draft:
    """A bundle in the making, as far as its generated files depend on it.

    Attributes:
        folder: Where it is being written; its artifacts and golden batches are there.
        name: The name it will have.
        signature: What is in ``signature.json``.
        tool: Name and version of this project.
        created: When it was made.
        identity: Hash of what it was made from.
    """

    folder: Path
    name: str
    signature: dict[str, Any]
    tool: str
    created: str
    identity: str

    @property
    def artifacts(self) -> dict[str, dict[str, Any]]:
        """File and runtime of each format."""
        return self.signature["artifacts"]

    @property
    def model_name(self) -> str:
        """The model's name, fit for a path."""
        return re.sub(r"[^A-Za-z0-9_-]+", "_", self.signature["task"]["task_name"] or self.signature["model"])

    def size_of(self, format: str) -> int:
        """Bytes of a format's file, and of those that hold its weights."""
        found = find_artifact(self.folder / self.artifacts[format]["file"])
        return 0 if found is None else found.size

    def copy_model(self, format: str, folder: Path, filename: str) -> Path:
        """Copies the file of a format, with the files that hold its weights, into a new folder."""
        source = self.folder / self.artifacts[format]["file"]
        manifest = Manifest.read(manifest_path(source))
        assert manifest is not None
        folder.mkdir(parents=True, exist_ok=True)
        for name in manifest.files:
            shutil.copyfile(source.with_name(name), folder / (filename if name == source.name else name))
        return folder / filename


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
        raise ExportError(f"{folder} is not a bundle: it has no {MANIFEST}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(
            f"{path} cannot be read, so nothing can be said of the bundle: {type(error).__name__}: {error}"
        ) from None
    if not isinstance(found, dict) or found.get("kind") != KIND:
        raise ExportError(f"{folder} is not a bundle: its {MANIFEST} is of another kind")
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
            raise ValueError(f"{name!r} is not a path inside the bundle, refused")
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
            yield f"{name} is a link or not a plain file, refused"
        elif path.stat().st_size != size:
            yield f"{name} has {path.stat().st_size} bytes instead of {size}"
        elif file_hash(path) != sha256:
            yield f"{name} was changed: its sha256 differs"


def _inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return name == "/".join(parts) and parts != () and ".." not in parts and not {"\\", ":", "\0"} & {*name}


def check_target(target: Path) -> Path:
    """The target, absolute.

    Raises:
        ExportError: There is something that is no bundle, or a bundle that holds something else.
    """
    target = target.expanduser().resolve()
    with _one_line_for(target):
        if not target.exists() or (target.is_dir() and not any(target.iterdir())):
            return target
        listed = listed_in(target)
        if listed is None:
            raise ExportError(f"{target} exists and is not a bundle, so it is not replaced; name another folder, or delete it")
        foreign = [name for name in files_in(target) if name not in listed and "__pycache__" not in name]
        if foreign:
            raise ExportError(
                f"{target} holds {foreign[0]}, which is not part of the bundle there; move it away, or name another folder"
            )
    return target


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """An empty folder that takes the target's place once the block succeeds; if it fails, nothing is left."""
    with _one_line_for(target):
        missing = [parent for parent in target.parents if not parent.exists()]
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _clean_up(target)
            partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
            try:
                with FileLock(partial / "lock"):  # held for as long as this process lives
                    new = partial / "new"
                    new.mkdir()
                    yield new
                    _exchange(new, target, partial / "old")
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        except BaseException:
            with suppress(OSError):
                for parent in missing:
                    parent.rmdir()
            raise


def _exchange(new: Path, target: Path, old: Path) -> None:
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise


def _clean_up(target: Path) -> None:
    """Removes what a process that was killed left of the same bundle, and puts back one that it had just moved away."""
    for partial in target.parent.glob(f".{glob.escape(target.name)}.partial-*"):
        with suppress(OSError, Timeout), FileLock(partial / "lock", timeout=0):
            if (partial / "old").is_dir() and not target.exists():
                (partial / "old").rename(target)
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _one_line_for(target: Path) -> Iterator[None]:
    """Says in one line why a bundle cannot be written."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename and Path(error.filename) in target.parents else ""
        raise ExportError(
            f"cannot write the bundle {target}: {error.strerror or error}{where}; nothing was written there"
        ) from None


def made_here(folder: Path) -> dict[str, Any]:
    """What this machine has stored about making a bundle, such as the ``config`` its model is built from; empty of one made elsewhere."""
    return Cache().values(_key(file_hash(folder / MANIFEST)), dict, keep=bool)


def remember(sha256: str, config: Path | None) -> None:
    """Remembers that a bundle was made here, and what its model is built from; a path of this machine has no place in the bundle."""
    Cache().values(_key(sha256), lambda: {"made": True, "config": None if config is None else str(config.resolve())})


def _key(sha256: str) -> str:
    return json_hash("bundle", sha256)


def all_artifacts(exports: Exports) -> dict[str, Artifact]:
    """The file of every format.

    Raises:
        ExportError: There is one that cannot be had; the message has the reason, and the formats that can.
    """
    found: dict[str, Artifact] = {}
    failed: dict[str, str] = {}
    for format in exports.formats:
        try:
            artifact = exports.artifact(format)
            exports.runner(format)
        except UserError as error:
            failed[format] = str(error)
            continue
        if artifact.ours:
            found[format] = artifact
        else:
            failed[format] = f"{artifact.path} is not what this project exported; delete it, and it is exported again"
    if failed:
        reasons = "; ".join(f"{format}: {reason}" for format, reason in failed.items())
        rest = f"; {', '.join(found)} can be bundled: name only these in `formats`" if found else ""
        raise ExportError(f"no bundle was written: {reasons}{rest}")
    return found


def copy_artifact(artifact: Artifact, folder: Path) -> None:
    """Copies an artifact with its manifest.

    Raises:
        ExportError: It is not what it was a moment ago.
    """
    assert artifact.manifest is not None
    folder.mkdir(exist_ok=True)
    for name in (*artifact.manifest.files, manifest_path(artifact.path).name):
        shutil.copyfile(artifact.path.with_name(name), folder / name)
    copied = find_artifact(folder / artifact.path.name)
    if copied is None or not copied.ours:
        raise ExportError(f"{artifact.path} was changed while it was copied; make the bundle again")
