"""Exported files with what is known about them, and the cache of what is worth keeping between tests, processes and runs.

A manifest is written beside a file as ``<file>.json``, and the file checked against it. An entry of the cache has as its key a hash of
everything that could change it, so entries are never invalidated, only left behind. A lock makes one process compute an entry while the others
wait; entries are written aside and renamed, so that none is ever half there.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from harness.export.formats import Attempt, Exported, ExportError
from harness.files import file_hash, new_folder, write_whole

_FORMAT_VERSION = 1

_PROBE = 1 << 20
"""Bytes by which is seen whether a disk is full."""


@dataclass(frozen=True)
class Manifest:
    """What is known of an exported file.

    Attributes:
        format: Its format.
        identity: Hash of what it was made from.
        files: sha256 of the file, and of those beside it that hold its weights, by name.
        attempts: The ways its exporter tried.
        limits: Sizes of each free axis as the exporter derived them, by axis; ``None`` for no upper limit.
        static: Axes that came out fixed though they were to stay free, with the reason.
        fields: Names of its inputs, in order.
        notes: Further facts of the exporter.
        versions: Versions of the packages that made it.
        created: When.
    """

    format: str
    identity: str
    files: dict[str, str]
    attempts: tuple[Attempt, ...]
    limits: dict[str, tuple[int, int | None]]
    static: dict[str, str]
    fields: tuple[str, ...]
    notes: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    created: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))

    def write(self, path: Path) -> None:
        """Writes the manifest."""
        write_whole(path, json.dumps({"version": _FORMAT_VERSION, **asdict(self)}, indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> Manifest | None:
        """A manifest from its file; ``None`` where there is none that can be understood."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data.pop("version") != _FORMAT_VERSION:
                return None
            data["attempts"] = tuple(Attempt(**attempt) for attempt in data["attempts"])
            data["limits"] = {axis: (low, high) for axis, (low, high) in data["limits"].items()}
            return cls(**{**data, "fields": tuple(data["fields"])})
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None


@dataclass(frozen=True)
class Artifact:
    """An exported file.

    Attributes:
        path: The file.
        manifest: What is known of it; ``None`` of a file that came from elsewhere.
        changed: Whether it is not the file that the manifest speaks of.
        seconds: How long the export took; 0 where it was there already.
    """

    path: Path
    manifest: Manifest | None
    changed: bool = False
    seconds: float = 0.0

    @property
    def ours(self) -> bool:
        """Whether this is, to the byte, what an exporter of this project wrote."""
        return self.manifest is not None and not self.changed

    @property
    def size(self) -> int:
        """Bytes of the file and of those that belong to it."""
        names = self.manifest.files if self.manifest else [self.path.name]
        return sum((self.path.parent / name).stat().st_size for name in names if (self.path.parent / name).is_file())


def manifest_path(path: Path) -> Path:
    """Where the manifest of a file lies."""
    return path.with_name(f"{path.name}.json")


def find_artifact(path: Path) -> Artifact | None:
    """The artifact at a path, its files compared with their hashes; ``None`` where there is no file."""
    if not path.is_file():
        return None
    manifest = Manifest.read(manifest_path(path))
    if manifest is None:
        return Artifact(path, None)
    same = all(_hash(path.parent / name) == known for name, known in manifest.files.items())
    return Artifact(path, manifest, changed=not same)


def describe(
    exported: Exported, path: Path, format_name: str, identity: str, fields: tuple[str, ...], versions: dict[str, str]
) -> None:
    """Writes the manifest of a file that was just exported, alone in its folder."""
    files = {file.name: file_hash(file) for file in sorted(path.parent.iterdir()) if file.is_file()}
    Manifest(
        format_name, identity, files, exported.attempts, exported.limits, exported.static, fields, exported.notes, versions
    ).write(manifest_path(path))


def publish(source: Path, folder: Path) -> Path:
    """Copies an artifact with its manifest into a folder, so that a reader finds the old one, the new one or none, and never half of one.

    Raises:
        ExportError: The folder cannot be written.
    """
    manifest = Manifest.read(manifest_path(source))
    assert manifest is not None
    target = folder / source.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The old file goes first: whatever is found beside a manifest must be what it speaks of.
        target.unlink(missing_ok=True)
        manifest.write(manifest_path(target))
        for name in sorted(manifest.files, key=lambda name: name == source.name):
            _copy_whole(source.parent / name, folder / name)
    except OSError as error:
        raise ExportError(f"`export_dir`: cannot write into {folder}: {error.strerror or error}") from None
    return target


def _copy_whole(source: Path, target: Path) -> None:
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        shutil.copyfile(source, aside)
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def _hash(path: Path) -> str:
    return file_hash(path) if path.is_file() else ""


_KEPT_SECONDS = 30 * 24 * 3600.0
_KEPT_BYTES = 8 << 30


def default_folder() -> Path:
    """``$MODELTIERS_CACHE``, or ``modeltiers`` in the user's cache folder."""
    chosen = os.environ.get("MODELTIERS_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modeltiers"


class Cache:
    """Entries on disk, shared by every process of a user.

    Args:
        folder: Where they lie; one that cannot be written is replaced by a temporary one.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = _writable(folder or default_folder())

    def values(
        self,
        key: str,
        compute: Callable[[], dict[str, Any]],
        keep: Callable[[dict[str, Any]], bool] = lambda _found: True,
        read: Callable[[dict[str, Any]], object] = dict,
    ) -> dict[str, Any]:
        """A JSON object by its key; computed where it is not there.

        Args:
            key: The key.
            compute: Computes it.
            keep: Whether what was computed is worth remembering; a failure may be the machine's.
            read: Makes of an object what it stands for; one of which that fails is computed again.
        """
        path = self.folder / "values" / f"{key}.json"
        found = _read_json(path, read)
        if found is None:
            with self._lock(key):
                found = _read_json(path, read)
                if found is None:
                    found = compute()
                    if keep(found):
                        self._keep(path, found)
        return found

    def _keep(self, path: Path, found: dict[str, Any]) -> None:
        try:
            write_whole(path, json.dumps(found))
        except OSError as error:
            warnings.warn(CacheWarning(f"the cache {self.folder} keeps nothing: {error.strerror or error}"), stacklevel=2)

    def files(self, key: str, make: Callable[[Path], None], sound: Callable[[Path], bool] = Path.is_dir) -> Path:
        """A folder of files by its key; made where it is not there, or not as it was.

        Args:
            key: The key.
            make: Fills an empty folder; where it raises, nothing is kept.
            sound: Whether a folder that is there holds what was made.
        """
        path = self.folder / "files" / key
        if not (path.is_dir() and sound(path)):
            with self._lock(key):
                if not (path.is_dir() and sound(path)):
                    shutil.rmtree(path, ignore_errors=True)
                    self._make(path, make)
        with suppress(OSError):
            os.utime(path)
        return path

    def _make(self, path: Path, make: Callable[[Path], None]) -> None:
        try:
            with new_folder(path) as folder:
                make(folder)
        except Exception:  # a writer of native code says of a full disk whatever it likes
            if reason := _why_full(self.folder):
                raise ExportError(
                    f"the cache {self.folder} has no room: {reason}; MODELTIERS_CACHE names another folder"
                ) from None
            raise
        self._forget_old(path.parent)

    def _lock(self, key: str) -> Any:
        from filelock import FileLock

        folder = self.folder / "locks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{key[:32]}.lock").touch()
        except OSError:  # nothing is kept then that others could wait for
            return nullcontext()
        return FileLock(folder / f"{key[:32]}.lock")

    def _forget_old(self, folder: Path) -> None:
        """Removes what was not used for a month, and the oldest while there is too much."""
        with suppress(OSError):
            entries = sorted((entry for entry in folder.iterdir() if entry.is_dir()), key=lambda entry: entry.stat().st_mtime)
            sizes = {entry: sum(file.stat().st_size for file in entry.rglob("*") if file.is_file()) for entry in entries}
            total = sum(sizes.values())
            for entry in entries[:-1]:
                old = time.time() - entry.stat().st_mtime > _KEPT_SECONDS
                if old or total > _KEPT_BYTES:
                    shutil.rmtree(entry, ignore_errors=True)
                    total -= sizes[entry]


def _read_json(path: Path, read: Callable[[dict[str, Any]], object]) -> dict[str, Any] | None:
    """An entry; ``None`` where there is none, or one of another shape."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    try:
        found: dict[str, Any] = json.loads(text)
        read(found)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        warnings.warn(CacheWarning(f"an entry of the cache has another shape and is made again: {path}"), stacklevel=3)
        return None
    return found


def _why_full(folder: Path) -> str:
    """Why a folder takes no more files; empty where it does."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_PROBE))
    except OSError as error:
        return str(error.strerror or error)
    return ""


class CacheWarning(UserWarning):
    """The cache does not hold what it should; whatever is judged is judged without it."""


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix="modeltiers-"))
