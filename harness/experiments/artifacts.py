"""Files and folders that runs made: where they lie, their hash, their size."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sqlalchemy import Connection, insert, select

from harness.experiments.clock import Now, moment
from harness.experiments.errors import ExperimentError
from harness.experiments.records import ArtifactRecord
from harness.experiments.tables import artifacts
from harness.files import file_hash


def measure(path: Path) -> tuple[str, int]:
    """The sha256 and the size in bytes of a file, or of a folder's files.

    Raises:
        ExperimentError: It is not there or cannot be read.
    """
    try:
        return _folder(path) if path.is_dir() else _file(path)
    except OSError as error:
        raise ExperimentError(f"artifact {path}: {error.strerror or error}") from None


def write(connection: Connection, run_id: int, kind: str, path: Path, sha256: str, size: int) -> None:
    """Writes where a run's artifact lies, and what it is."""
    row = {"run_id": run_id, "kind": kind, "path": str(path), "sha256": sha256, "bytes": size}
    connection.execute(insert(artifacts).values(**row, created=Now()))


def read(connection: Connection, run_id: int) -> list[ArtifactRecord]:
    """A run's artifacts, in the order in which they were logged."""
    found = connection.execute(select(artifacts).where(artifacts.c.run_id == run_id).order_by(artifacts.c.id))
    return [ArtifactRecord(row.kind, row.path, row.sha256, row.bytes, moment(row.created)) for row in found]


def _file(path: Path) -> tuple[str, int]:
    return file_hash(path), path.stat().st_size


def _folder(path: Path) -> tuple[str, int]:
    digest, total = hashlib.sha256(), 0
    for file in sorted(inner for inner in path.rglob("*") if inner.is_file()):
        sha256, size = _file(file)
        digest.update(f"{sha256}  {file.relative_to(path).as_posix()}\n".encode(errors="surrogateescape"))
        total += size
    return digest.hexdigest(), total
