"""What can go wrong with an experiment database, each in one line."""

from __future__ import annotations

from harness.errors import UserError


class ExperimentError(UserError, RuntimeError):
    """The experiment database cannot be opened, read or written, or was asked for something impossible."""


class UnknownRunError(ExperimentError, LookupError):
    """No run has that id or name."""
