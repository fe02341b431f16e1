"""One bug, few red lines: a finding that another check makes too, and says better, is left to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from harness.evidence import Evidence, Status
from harness.owners import owned_by
from harness.training.trial import Trial

__all__ = ["owned_by", "owner_among"]


def owner_among(checks: Mapping[str, Callable[[Trial], Evidence]], trial: Trial) -> tuple[str, Evidence] | None:
    """The name and the finding of the first of some checks that fails.

    Args:
        checks: Checks by name that know what is behind a finding, the most likely first.
        trial: The model.
    """
    return next(((name, found) for name, check in checks.items() if (found := check(trial)).status is Status.FAIL), None)
