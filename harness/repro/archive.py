"""A zip file that is the same to the byte whenever it has the same content, and that is whole or not there."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from harness.repro.errors import ReproError
from harness.repro.manifest import FileFacts

BLOCK = 1 << 20

_EARLIEST = (1980, 1, 1, 0, 0, 0)
_PLAIN_FILE = 0o100644 << 16
_UNIX = 3
_COMPRESSED_BYTES = 16 << 20
"""Larger files are stored as they are: they are weights or packed data, which take long and do not shrink."""


def write_archive(target: Path, files: Mapping[str, Path | bytes], facts: Mapping[str, FileFacts]) -> None:
    """Writes a zip aside and gives it its name once it is whole.

    Args:
        target: The zip; one that is there is replaced.
        files: Files or their content, by name.
        facts: What each must be; a file that was changed since is an error.

    Raises:
        ReproError: It cannot be written, or a file was changed; nothing is left behind.
    """
    with _aside(target) as partial, ZipFile(partial, "w") as archive:
        for name in sorted(files):
            _write(archive, name, files[name], facts[name])


def _write(archive: ZipFile, name: str, content: Path | bytes, facts: FileFacts) -> None:
    info = ZipInfo(name, _EARLIEST)
    info.create_system, info.external_attr = _UNIX, _PLAIN_FILE
    info.compress_type = ZIP_DEFLATED if facts.bytes <= _COMPRESSED_BYTES else ZIP_STORED
    info.file_size = facts.bytes
    digest = hashlib.sha256()
    with archive.open(info, "w") as out:
        for block in _blocks(content):
            digest.update(block)
            out.write(block)
    if digest.hexdigest() != facts.sha256:
        raise ReproError(f"{name} was changed while it was copied; make the bundle again")


def _blocks(content: Path | bytes) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as stream:
        while block := stream.read(BLOCK):
            yield block


@contextmanager
def _aside(target: Path) -> Iterator[BinaryIO]:
    """A new file that takes the target's name when the block is done; where it fails, nothing was there."""
    missing = [parent for parent in target.parents if not parent.exists()]
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
            for parent in missing:
                parent.rmdir()
        if not isinstance(error, OSError):
            raise
        where = f" ({error.filename})" if error.filename and Path(error.filename) in target.parents else ""
        raise ReproError(f"cannot write the bundle {target}: {error.strerror or error}{where}; nothing was written") from None
