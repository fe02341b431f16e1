"""What can be wrong with a gist."""

from __future__ import annotations

from harness.errors import ModelSourceError


class GistError(ModelSourceError):
    """The gist cannot be had, or is not what it was said to be."""


class UntrustedCodeError(ModelSourceError):
    """The scan found something in the gist, and nobody said that these very files are trusted."""
