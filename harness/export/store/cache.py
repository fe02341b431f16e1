"""What is worth keeping between tests, processes and runs: exports, noise floors and timings, by what they depend on.

An entry's key is a hash of everything that could change it, so entries are never invalidated, only left behind. A lock makes one process
compute an entry while the others wait; entries are written aside and renamed, so that none is ever half there.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.files import new_folder, write_whole

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
        self, key: str, compute: Callable[[], dict[str, Any]], keep: Callable[[dict[str, Any]], bool] = lambda _found: True
    ) -> dict[str, Any]:
        """A JSON object by its key; computed where it is not there.

        Args:
            key: The key.
            compute: Computes it.
            keep: Whether what was computed is worth remembering; a failure may be the machine's.
        """
        path = self.folder / "values" / f"{key}.json"
        found = _read_json(path)
        if found is None:
            with self._lock(key):
                found = _read_json(path)
                if found is None:
                    found = compute()
                    if keep(found):
                        write_whole(path, json.dumps(found))
        return found

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
        with new_folder(path) as folder:
            make(folder)
        self._forget_old(path.parent)

    def _lock(self, key: str) -> Any:
        from filelock import FileLock

        folder = self.folder / "locks"
        folder.mkdir(parents=True, exist_ok=True)
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


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix="modeltiers-"))
