"""Where gists come from, where they are kept, and how long one waits for them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from harness.gists.errors import GistError

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
