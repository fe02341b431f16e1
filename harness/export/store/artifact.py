"""An exported file and what is known about it: written beside it as ``<file>.json``, and checked against it."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from harness.export.formats.exporter import Attempt, Exported, ExportError
from harness.files import file_hash, write_whole

_FORMAT_VERSION = 1


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
    """The artifact at a path, its files held against their hashes; ``None`` where there is no file."""
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
