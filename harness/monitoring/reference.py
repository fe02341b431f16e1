"""What a run keeps so that later data can be held against it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.experiments.database import ExperimentDB
from harness.experiments.errors import ExperimentError
from harness.experiments.records import RunRef
from harness.monitoring.harm import ConfidenceThreshold, fit_threshold
from harness.monitoring.profiles.features import Profile
from harness.monitoring.profiles.storage import load_profile, log_profile_to_db
from harness.monitoring.window import Window

_CONFIDENCE = "confidence"


@dataclass(frozen=True)
class Reference:
    """What later data is held against.

    Attributes:
        profile: How the data was distributed.
        confidence: From which confidence on the model's answers count as right; ``None`` where there was no model, were no labels, or a row
            has more than one answer.
    """

    profile: Profile
    confidence: ConfidenceThreshold | None = None

    @classmethod
    def of(cls, window: Window) -> Reference:
        """The reference that measured rows make."""
        sure, right = window.confidence, window.correct
        if sure is None or right is None or not np.isfinite(right).any():
            return cls(window.profile)
        return cls(window.profile, fit_threshold(sure, right))

    def store(self, db: ExperimentDB, run: RunRef) -> int:
        """Stores it with a run, in the place of an older one.

        Returns:
            The run's id: the ``reference_profile_id`` of a config.

        Raises:
            ExperimentError: There is no such run, or it cannot be stored.
        """
        db.log_profile(run, None if self.confidence is None else self.confidence.to_json(), _CONFIDENCE)
        return log_profile_to_db(db, run, self.profile)


def load_reference(db: ExperimentDB, run: RunRef) -> Reference:
    """The reference of a run.

    Args:
        db: The database.
        run: The run, by id, by its own name, or by a named reference such as ``"production"``.

    Raises:
        UnknownRunError: There is no such run; the nearest is named.
        ExperimentError: The run has no profile.
        ProfileError: What is stored is no profile, or a newer version stored it.
    """
    profile = load_profile(db, run)
    try:
        stored = db.get_profile(run, _CONFIDENCE)
    except ExperimentError:  # a profile alone
        stored = None
    return Reference(profile, None if stored is None else ConfidenceThreshold.from_json(stored))
