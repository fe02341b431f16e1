"""Files and folders that are written whole or not at all, and the hashes of their contents."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BLOCK = 1 << 20
"""Bytes that are read at a time."""


NO_FILE = "a named pipe, a socket or a device"
"""What is there and is neither a file nor a folder; who reads it may wait forever."""


def read_regular(path: Path) -> bytes:
    """The content of a file.

    Raises:
        OSError: It is not there, cannot be read, or is no regular file: one would wait forever for what a named pipe holds.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no such file {path}")
    return path.read_bytes()


def write_whole(path: Path, content: str | bytes) -> Path:
    """Writes a file so that a reader never sees half of it; the folder is made if it is not there.

    Args:
        path: Where the file goes; one that is there is replaced.
        content: Bytes, or text to be encoded in UTF-8.

    Returns:
        The path.

    Raises:
        OSError: It cannot be written; what was there before is untouched.
    """
    # A file's name that is part of the text need not be Unicode.
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    with replacing(path) as partial:
        partial.write_bytes(data)
    return path


@contextmanager
def replacing(path: Path, *, one_writer: bool = False) -> Iterator[Path]:
    """A path to write a new version of a file to, which takes the file's place when the block is done.

    Where the block raises, the new version is removed with the folders that were made for it, and what was there before is untouched.

    Args:
        path: The file; its folder is made if it is not there.
        one_writer: Whether only one process ever writes this file. A killed process then leaves at most one partial file, which the next
            one overwrites: right for large files.
    """
    missing = [folder for folder in path.parents if not folder.exists()]
    partial = path.with_name(f".{path.name}.partial" if one_writer else f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except BaseException:
        with suppress(OSError):  # what else lies there stays
            partial.unlink(missing_ok=True)
            for folder in missing:
                folder.rmdir()
        raise


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill, which gets its name when the block is done; where the block raises, nothing is left.

    Args:
        path: The folder's name; there must be no such folder yet.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".new-", dir=path.parent))
    try:
        yield partial
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def blocks_of(path: Path) -> Iterator[bytes]:
    """The content of a file in blocks, so that a large one is never whole in memory."""
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            yield block


def file_hash(path: Path) -> str:
    """The sha256 of a file's content."""
    digest = hashlib.sha256()
    for block in blocks_of(path):
        digest.update(block)
    return digest.hexdigest()


def text_hash(text: str) -> str:
    """The sha256 of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def json_hash(*parts: object) -> str:
    """The sha256 of JSON-ready parts, whatever the order of their keys."""
    return text_hash(json.dumps(parts, sort_keys=True, default=str))
