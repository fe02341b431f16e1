"""What can go wrong with isolation."""

from __future__ import annotations

from harness.errors import UserError


class IsolationError(UserError, RuntimeError):
    """The isolated process could not be started, died, or did not answer in time."""
