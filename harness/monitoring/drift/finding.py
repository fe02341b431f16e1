"""What a difference comes to."""

from __future__ import annotations

from enum import Enum

from harness.evidence import Status


class Finding(str, Enum):
    """What a difference comes to."""

    DRIFTED = "drifted"
    """Both keys: significant, and large enough to matter."""
    CHANGED = "changed"
    """Significant alone."""
    UNPROVEN = "unproven"
    """Large alone, among enough rows."""
    CANNOT_TELL = "cannot tell"
    """Not significant among so few rows that a drift at the floor would more likely be missed than seen."""
    UNCHANGED = "unchanged"
    """Neither."""

    @property
    def status(self) -> Status:
        """What the finding means for the gate. That rows are too few is a fact about the whole window, and warned of once for all of it."""
        if self is Finding.DRIFTED:
            return Status.FAIL
        return Status.WARN if self in (Finding.CHANGED, Finding.UNPROVEN) else Status.OK
