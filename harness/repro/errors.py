"""What can go wrong with a repro bundle."""

from __future__ import annotations

from harness.errors import UserError


class ReproError(UserError, RuntimeError):
    """A repro bundle cannot be made, is not whole, or cannot be run again."""
