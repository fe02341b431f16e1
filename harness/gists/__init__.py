"""Models from GitHub gists: fetched whole, hashed, scanned, and run only with consent where the scan found something."""

from __future__ import annotations

from harness.gists.cache import open_gist
from harness.gists.gist import Gist, GistError, UntrustedCodeError, admit

__all__ = ["Gist", "GistError", "UntrustedCodeError", "admit", "open_gist"]
