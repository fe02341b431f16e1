"""Models from GitHub gists: fetched whole, hashed, scanned, and run only with consent where the scan found something."""

from __future__ import annotations

from harness.gists.admission import admit
from harness.gists.errors import GistError, UntrustedCodeError
from harness.gists.gist import Gist
from harness.gists.load import load_gist_model, open_gist

__all__ = ["Gist", "GistError", "UntrustedCodeError", "admit", "load_gist_model", "open_gist"]
