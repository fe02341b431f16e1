"""Profiles in the experiment database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.monitoring.errors import ProfileError
from harness.monitoring.profiles.features import Profile

if TYPE_CHECKING:
    from harness.experiments.database import ExperimentDB
    from harness.experiments.records import RunRef

REFERENCE = "reference"
"""The name of a run's profile, where none is given."""


def log_profile_to_db(db: ExperimentDB, run_id: RunRef, profile: Any, name: str = REFERENCE) -> int:
    """Stores a run's reference profile, as bytes.

    Args:
        db: The database.
        run_id: The run the profile belongs to.
        profile: The profile, or its JSON or its bytes.
        name: Tells several profiles of a run apart; a newer one of the same name takes the place of the older.

    Returns:
        The run's id: the ``reference_profile_id`` of a config.

    Raises:
        ExperimentError: There is no such run, or the profile cannot be stored.
        ProfileError: It is no profile, or a damaged one.
    """
    db.log_profile(run_id, _checked(profile).to_bytes(), name)
    return db.resolve(run_id)


def load_profile(db: ExperimentDB, run_ref: RunRef, name: str = REFERENCE) -> Profile:
    """The newest profile of a run, whether it was stored as bytes or as JSON.

    Args:
        db: The database.
        run_ref: The run, by id, by its own name, or by a named reference such as ``"production"``.
        name: The profile's name.

    Raises:
        UnknownRunError: There is no such run; the nearest is named.
        ExperimentError: The run has no such profile.
        ProfileError: What is stored is no profile.
        ProfileVersionError: A newer version stored it.
    """
    return _read(db.get_profile(run_ref, name))


def _checked(profile: Any) -> Profile:
    """The profile that somebody gave, in whatever form."""
    if isinstance(profile, Profile):
        return profile
    try:
        return _read(profile)
    except ProfileError as error:
        raise ProfileError(
            f"expected a profile, as `profile_columns` or `modeltiers profile` makes one, got {type(profile).__name__}: {error}"
        ) from None


def _read(stored: Any) -> Profile:
    return Profile.from_bytes(stored) if isinstance(stored, bytes) else Profile.from_json(stored)
