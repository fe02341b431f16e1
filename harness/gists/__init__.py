"""Models from GitHub gists: fetched whole, hashed, scanned, and run only with consent where the scan found something."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock

from harness.errors import ModelSourceError
from harness.files import write_whole
from harness.scan import Finding, scan_files


class GistError(ModelSourceError):
    """The gist cannot be had, or is not what it was said to be."""

    code = "gist"


class UntrustedCodeError(ModelSourceError):
    """The scan found something in the gist, and nobody said that these very files are trusted."""

    code = "untrusted_code"


_API = "https://api.github.com"
_RAW_HOSTS = ("gist.githubusercontent.com",)
_LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class GistSettings:
    """How gists are fetched.

    Attributes:
        base_url: Of the API.
        token: Sent to the API and to nobody else; empty for anonymous requests, of which GitHub allows 60 an hour.
        cache: Folder that fetched gists are kept in.
        consent: File that the trusted sha256 are kept in.
        timeout: Seconds without a byte after which a request has failed.
        deadline: Seconds that one request may take altogether.
        attempts: How often a request is tried when the network or the server fails.
        pause: Seconds before the second attempt; each further one waits twice as long.
        max_bytes: Bytes that one answer, and all files together, may have.
    """

    base_url: str = _API
    token: str = field(default="", repr=False)
    cache: Path = Path("gists")
    consent: Path = Path("trusted-gists.json")
    timeout: float = 10.0
    deadline: float = 60.0
    attempts: int = 3
    pause: float = 0.5
    max_bytes: int = 32 * 2**20

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOCAL):
            raise GistError(f"MODELTIERS_GIST_API: got {self.base_url!r}, expected an https address")

    @property
    def host(self) -> str:
        """Name of the API's host."""
        return urlsplit(self.base_url).hostname or ""

    def may_serve_files(self, url: str) -> bool:
        """Whether a file may be fetched from an address: GitHub's host for gists, or the API's own."""
        parts, own = urlsplit(url), urlsplit(self.base_url)
        same = (parts.scheme, parts.hostname, parts.port) == (own.scheme, own.hostname, own.port)
        return same or (parts.scheme == "https" and parts.hostname in _RAW_HOSTS and parts.port in (None, 443))

    @classmethod
    def from_environment(cls) -> GistSettings:
        """The settings of the environment.

        ``MODELTIERS_GIST_API`` is the API's address and ``GITHUB_TOKEN`` the token; gists are kept in ``MODELTIERS_GISTS``, or else in
        ``gists`` in the project's cache (``MODELTIERS_CACHE``), and consent in the user's configuration (``XDG_CONFIG_HOME``).
        """
        user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        cache = Path(os.environ.get("MODELTIERS_CACHE") or user / "modeltiers").expanduser()
        config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        return cls(
            base_url=os.environ.get("MODELTIERS_GIST_API", _API).rstrip("/"),
            token=os.environ.get("GITHUB_TOKEN", ""),
            cache=Path(os.environ.get("MODELTIERS_GISTS") or cache / "gists").expanduser().absolute(),
            consent=config / "modeltiers" / "trusted-gists.json",
        )


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
        raise GistError(f"`gist_id`: got {gist_id!r}, expected only the id, the last part of the gist's address")
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


_SHOWN = 3


def admit(gist: Gist, sha256: str | None = None, settings: GistSettings | None = None) -> list[Finding]:
    """Lets a gist pass, or refuses it; returns what the scan found.

    Raises:
        GistError: It has another hash.
        UntrustedCodeError: The scan found something, and the user does not trust these files.
    """
    if sha256 and sha256 != gist.sha256:
        raise GistError(
            f"gist {gist.id}: its files are not those that were pinned: sha256 {gist.sha256} (revision {gist.revision}), "
            f"`gist_sha256` is {sha256}"
        )
    findings = scan_files(gist.files)
    settings = settings or GistSettings.from_environment()
    if findings and not is_trusted(gist.sha256, settings.consent):
        shown = "; ".join(map(str, findings[:_SHOWN]))
        more = f"; and {len(findings) - _SHOWN} more" if len(findings) > _SHOWN else ""
        raise UntrustedCodeError(
            f"gist {gist.id}: not run because the scan found what no model needs: {shown}{more}. Read the code; if you trust these "
            f"files (sha256 {gist.sha256}): modeltiers gist {gist.id} --revision {gist.revision} --trust"
        )
    return findings


def is_trusted(sha256: str, file: Path) -> bool:
    """Whether the user trusts files with this hash.

    Raises:
        GistError: The file of consent cannot be read.
    """
    return sha256 in _trusted_in(file)


def trust(gist: Gist, file: Path) -> None:
    """Remembers that the user trusts these very files.

    Raises:
        GistError: The file of consent cannot be read or written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock")):
            trusted = _trusted_in(file)
            trusted[gist.sha256] = {
                "gist_id": gist.id,
                "revision": gist.revision,
                "owner": gist.owner,
                "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            }
            write_whole(file, json.dumps({"trusted": trusted}, indent=2) + "\n")
    except OSError as error:
        raise GistError(f"{file}: cannot be written: {error.strerror}") from None


def _trusted_in(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        trusted = content["trusted"]
        if not isinstance(trusted, dict):
            raise TypeError
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError):
        raise GistError(f'{file}: cannot be read as {{"trusted": {{sha256: …}}}}; correct or delete it') from None
    return trusted
