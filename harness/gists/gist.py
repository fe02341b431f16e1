"""A gist: its files, and the hash that stands for all of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.gists.errors import GistError

_ID = re.compile(r"[0-9A-Za-z]{1,64}")
_REVISION = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"(?!\.)[^/\\:\x00-\x1f\x7f]{1,200}")
_MODEL = "model.py"


@dataclass(frozen=True)
class Gist:
    """One revision of a gist.

    Attributes:
        id: Its id.
        revision: The commit, 40 hexadecimal digits.
        owner: Login of its owner; empty for an anonymous gist.
        files: Contents by name.
        folder: Where the files lie on disk; ``None`` before they do.
    """

    id: str
    revision: str
    owner: str
    files: Mapping[str, bytes] = field(repr=False)
    folder: Path | None = None

    @property
    def sha256(self) -> str:
        """Hash of the files' names and contents, with the length before each, so that no two sets of files have the same."""
        digest = hashlib.sha256()
        for name in sorted(self.files):
            for part in (name.encode(), self.files[name]):
                digest.update(len(part).to_bytes(8, "big") + part)
        return digest.hexdigest()

    @property
    def model_file(self) -> str:
        """The file that holds the model: ``model.py``, or the only file of Python.

        Raises:
            GistError: There is neither.
        """
        python = sorted(name for name in self.files if name.endswith(".py"))
        if _MODEL in python:
            return _MODEL
        if len(python) == 1:
            return python[0]
        has = ", ".join(sorted(self.files)) or "no file"
        raise GistError(f"gist {self.id}: no {_MODEL}, and not one single other file of Python; it has {has}")

    @property
    def facts(self) -> dict[str, str]:
        """What an experiment database remembers of it."""
        return {"gist_id": self.id, "revision": self.revision, "sha256": self.sha256}

    def to_json(self) -> dict[str, Any]:
        """Everything but the contents, JSON-ready."""
        sizes = {name: len(content) for name, content in sorted(self.files.items())}
        return {**self.facts, "owner": self.owner, "files": sizes}


def check_id(gist_id: str) -> str:
    """The id itself, where it can be one.

    Raises:
        GistError: It cannot.
    """
    if not _ID.fullmatch(gist_id):
        raise GistError(f"`gist_id`: got {gist_id!r}, expected the id alone, the last part of the gist's address")
    return gist_id


def check_revision(revision: str) -> str:
    """The revision itself, where it can be one.

    Raises:
        GistError: It cannot.
    """
    if not _REVISION.fullmatch(revision):
        raise GistError(f"`gist_revision`: got {revision!r}, expected the 40 hexadecimal digits of a commit")
    return revision


def check_name(name: str, gist_id: str) -> str:
    """A file's name, where a file can be written under it without leaving its folder.

    Raises:
        GistError: It cannot.
    """
    if not _NAME.fullmatch(name):
        raise GistError(f"gist {gist_id}: refused, as a file of it is called {name!r}")
    return name
