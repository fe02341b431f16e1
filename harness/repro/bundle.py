"""The zip of a repro bundle: written the same to the byte for the same content, and read only after every hash is right."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from struct import error as StructError
from typing import Any, BinaryIO
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from harness.repro.manifest import MANIFEST, FileFacts, Manifest, ReproError, is_inside
from harness.wording import and_others

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


_RATIO = 100
_SLACK = 512 << 20
"""What unpacks to more than this and ``_RATIO`` times its size is refused: texts shrink to a tenth, weights hardly."""

_ENCRYPTED = 0x1
_DAMAGED = (BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, KeyError, OverflowError, StructError)
"""What ``zipfile`` raises for files that are no sound zip."""


@dataclass(frozen=True)
class Bundle:
    """A repro bundle whose files are, to the byte, those of its manifest.

    Attributes:
        path: The zip.
        manifest: What is in it.
        sha256: Of the manifest, which names those of all other files.
    """

    path: Path
    manifest: Manifest
    sha256: str
    _archive: ZipFile

    def read(self, name: str) -> bytes:
        """The content of a file."""
        return b"".join(self._blocks(name))

    def read_json(self, name: str) -> Any:
        """The content of a JSON file.

        Raises:
            ReproError: It is none.
        """
        try:
            return json.loads(self.read(name).decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise ReproError(f"{self.path}: {name} is not JSON that can be read: {error}") from None

    def unpack(self, folder: Path) -> None:
        """Writes every file into an empty folder."""
        for name in (*self.manifest.files, MANIFEST):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as out:
                for block in self._blocks(name):
                    out.write(block)

    def _blocks(self, name: str) -> Iterator[bytes]:
        """The content of a file, held to its hash once more, as the zip may be written to while it is read."""
        facts = self.manifest.files.get(name)
        return _checked(self._archive, name, facts.sha256 if facts else self.sha256)


@contextmanager
def open_bundle(path: Path) -> Iterator[Bundle]:
    """Opens a bundle and holds every file in it to the manifest.

    Raises:
        ReproError: It is no bundle, or not whole, or holds what no bundle has; the message names the file.
    """
    with ExitStack() as opened:
        try:
            stream = opened.enter_context(path.open("rb"))
            archive = opened.enter_context(ZipFile(stream))
            bundle = _verified(path, archive, path.stat().st_size)
        except ReproError as error:
            raise ReproError(f"{path}: {error}") from None
        except FileNotFoundError:
            raise ReproError(f"{path}: no such file") from None
        except OSError as error:
            raise ReproError(f"{path} cannot be read: {error.strerror or error}") from None
        except _DAMAGED as error:
            raise ReproError(f"{path} is not a zip file, or only a part of one: {error}") from None
        yield bundle


def _verified(path: Path, archive: ZipFile, size: int) -> Bundle:
    entries = _entries(archive, size)
    if MANIFEST not in entries:
        raise ReproError(f"it is not a repro bundle: it has no {MANIFEST}")
    content = b"".join(_checked(archive, MANIFEST, None))
    manifest = _parse(content)
    listed = {*manifest.files, MANIFEST}
    foreign, missing = sorted(entries.keys() - listed), sorted(listed - entries.keys())
    if foreign:
        raise ReproError(f"{foreign[0]} is not in the manifest{and_others(len(foreign) - 1, 'file')}")
    if missing:
        raise ReproError(f"{missing[0]} is missing{and_others(len(missing) - 1, 'file')}")
    for name, facts in manifest.files.items():
        if entries[name].file_size != facts.bytes:
            raise ReproError(f"{name} has {entries[name].file_size} bytes instead of {facts.bytes}")
        for _ in _checked(archive, name, facts.sha256):
            pass
    return Bundle(path, manifest, hashlib.sha256(content).hexdigest(), archive)


def _entries(archive: ZipFile, size: int) -> dict[str, ZipInfo]:
    """The entries of a zip by name: plain files with plain names, each once, that unpack to no more than they may."""
    found: dict[str, ZipInfo] = {}
    for info in archive.infolist():
        name = info.orig_filename  # of a name with a NUL, `filename` is only a part
        mode = info.external_attr >> 16
        if not is_inside(name):
            raise ReproError(f"{name!r} is not a path inside the bundle, refused")
        if name in found:
            raise ReproError(f"{name} is in it twice")
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise ReproError(f"{name} is a link or no plain file, refused")
        if info.flag_bits & _ENCRYPTED or info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise ReproError(f"{name} is encrypted or compressed in a way that bundles never are, refused")
        found[name] = info
    unpacked = sum(info.file_size for info in found.values())
    if unpacked > _SLACK + _RATIO * size or sum(info.compress_size for info in found.values()) > size:
        raise ReproError(f"its {size} bytes would unpack to {unpacked}, refused")
    return found


def _parse(content: bytes) -> Manifest:
    try:
        return Manifest.parse(json.loads(content.decode("utf-8")))
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ReproError(f"{MANIFEST} is not a manifest of a repro bundle: {said}") from None


def _checked(archive: ZipFile, name: str, sha256: str | None) -> Iterator[bytes]:
    """The blocks of a file.

    Raises:
        ReproError: It cannot be unpacked, or has another sha256; this is known after the last block.
    """
    digest = hashlib.sha256()
    try:
        with archive.open(name) as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
                yield block
    except OSError as error:
        raise ReproError(f"{name} cannot be read: {error.strerror or error}") from None
    except _DAMAGED as error:
        raise ReproError(f"{name} is damaged: {error}") from None
    if sha256 is not None and digest.hexdigest() != sha256:
        raise ReproError(f"{name} was changed: its sha256 differs")
