"""The kinds of data files that can be read: one file a kind, and a line here."""

from __future__ import annotations

from pathlib import Path

from harness.data import Reader
from harness.data.readers.arrow import ArrowFile, ParquetFile
from harness.data.readers.images import ImageFolder
from harness.data.readers.npz import NpzFile, PtFile
from harness.data.readers.text import CsvTable, JsonLines, PlainText
from harness.errors import DataError, did_you_mean

READERS: tuple[type[Reader], ...] = (
    JsonLines,
    CsvTable,
    ParquetFile,
    ArrowFile,
    NpzFile,
    PtFile,
    PlainText,
    ImageFolder,
)
"""Every kind, in the order in which messages and documentation list them."""


def reader_of(path: Path) -> type[Reader]:
    """What reads a file or folder.

    Raises:
        DataError: Nothing does; the message lists what can be read.
    """
    is_folder, suffix = path.is_dir(), path.suffix.lower()
    for reader in READERS:
        if reader.is_folder == is_folder and (is_folder or suffix in reader.suffixes):
            return reader
    near = did_you_mean(path.suffix, suffixes())
    what = repr(path.suffix) if path.suffix else "files without a suffix"
    raise DataError(f"{path.name}: no reader for {what}.{near} Files that can be read: {', '.join(suffixes())}")


def table_of(path: Path) -> Reader:
    """A file to be read as a table, without a task.

    Raises:
        DataError: It is not there, or nothing reads it as a table.
    """
    reader = reader_of(existing(path))
    if reader.is_folder:
        raise DataError(f"{path.name}: a {reader.kind} is not a table; give a task to read it as examples")
    return reader(path)


def suffixes() -> tuple[str, ...]:
    """The suffixes of all files that can be read."""
    return tuple(suffix for reader in READERS if not reader.is_folder for suffix in reader.suffixes)


def kinds() -> str:
    """The kinds in words, as in ``JSON Lines, CSV or folder of images``."""
    *first, last = (reader.kind for reader in READERS)
    return f"{', '.join(first)} or {last}"


def package_for(suffix: str) -> str:
    """The distribution that a data file with this suffix needs; empty where none is needed."""
    return next((reader.package for reader in READERS if suffix.lower() in reader.suffixes), "")


def existing(path: Path) -> Path:
    """The path of a file or folder that is there.

    Raises:
        DataError: It is not, and the message names the file most like it; or it is a pipe or a device, which would be waited for.
    """
    if not path.exists():
        near = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"no such file {path}.{did_you_mean(path.name, near)}")
    if not (path.is_file() or path.is_dir()):
        raise DataError(f"{path} is neither a file nor a folder: a named pipe, a socket or a device cannot be read as data")
    return path
