"""Profiles in the experiment database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.monitoring.profiles.features import Profile

if TYPE_CHECKING:
    from harness.experiments.database import ExperimentDB
    from harness.experiments.records import RunRef

REFERENCE = "reference"
"""The name of a run's profile, where none is given."""


def log_profile_to_db(db: ExperimentDB, run_id: RunRef, profile: Profile, name: str = REFERENCE) -> int:
    """Stores a run's reference profile, as bytes.

    Args:
        db: The database.
        run_id: The run the profile belongs to.
        profile: The profile.
        name: Tells several profiles of a run apart; a newer one of the same name takes the place of the older.

    Returns:
        The run's id: the ``reference_profile_id`` of a config.

    Raises:
        ExperimentError: There is no such run, or the profile cannot be stored.
    """
    db.log_profile(run_id, profile.to_bytes(), name)
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
    stored = db.get_profile(run_ref, name)
    return Profile.from_bytes(stored) if isinstance(stored, bytes) else Profile.from_json(stored)
