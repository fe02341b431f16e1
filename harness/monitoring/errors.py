"""What the user can put right in monitoring, each in one line."""

from __future__ import annotations

from harness.errors import UserError


class ComparisonError(UserError, ValueError):
    """Two sets of per-sample scores cannot be paired, or what was asked of them is impossible."""

    code = "comparison"


class ProfileError(UserError, ValueError):
    """A profile cannot be made, read or merged."""

    code = "profile"


class ProfileVersionError(ProfileError):
    """A profile was written by a newer version."""

    code = "newer_profile"


class ProfileMismatchError(ProfileError):
    """Two profiles, or a profile and data, were not made to be compared."""

    code = "profile_mismatch"
