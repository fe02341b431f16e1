"""What can be wrong with two runs that are to be compared."""

from __future__ import annotations

from harness.errors import UserError


class ComparisonError(UserError, ValueError):
    """Two sets of per-sample scores cannot be paired, or what was asked of them is impossible."""
