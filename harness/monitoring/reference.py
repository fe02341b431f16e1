"""What a run keeps so that later data can be held against it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.data.dataset import Dataset
from harness.experiments.database import ExperimentDB
from harness.experiments.errors import ExperimentError
from harness.experiments.records import RunRef
from harness.monitoring import known_encoding
from harness.monitoring.harm import ConfidenceThreshold, Familiarity, fit_threshold
from harness.monitoring.known_encoding import KnownEncoding
from harness.monitoring.profiles.profile import Profile, load_profile, log_profile_to_db
from harness.monitoring.sureness import sureness_of
from harness.monitoring.window import Window

_CONFIDENCE = "confidence"
_FAMILIARITY = "familiarity"


@dataclass(frozen=True)
class Reference:
    """What later data is held against.

    Attributes:
        profile: How the data was distributed.
        confidence: From which confidence on the model's answers count as right; ``None`` where there was no model, were no labels, or a row
            has more than one answer.
        familiarity: How it is told how sure the model is; by its own confidence where ``None``.
        encoding: How the data was read; ``None`` where that was not kept.
    """

    profile: Profile
    confidence: ConfidenceThreshold | None = None
    familiarity: Familiarity | None = None
    encoding: KnownEncoding | None = None

    @classmethod
    def of(cls, data: Dataset, window: Window, familiarity: Familiarity | None = None) -> Reference:
        """The reference that measured rows make.

        Args:
            data: The rows.
            window: What was measured of them.
            familiarity: How it is told how sure the model is of a row.
        """
        sure, right = sureness_of(data, window, familiarity), window.correct
        if sure is None or right is None or not np.isfinite(right).any():
            return cls(window.profile, encoding=KnownEncoding.of(data))
        return cls(window.profile, fit_threshold(sure, right), familiarity, KnownEncoding.of(data))

    def store(self, db: ExperimentDB, run: RunRef) -> int:
        """Stores it with a run, in the place of an older one.

        Returns:
            The run's id: the ``reference_profile_id`` of a config.

        Raises:
            ExperimentError: There is no such run, or it cannot be stored.
        """
        parts = ((_CONFIDENCE, self.confidence), (_FAMILIARITY, self.familiarity), (known_encoding.NAME, self.encoding))
        for name, part in parts:
            db.log_profile(run, None if part is None else part.to_json(), name)
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
    threshold, familiarity = (_stored(db, run, name) for name in (_CONFIDENCE, _FAMILIARITY))
    return Reference(
        profile,
        None if threshold is None else ConfidenceThreshold.from_json(threshold),
        None if familiarity is None else Familiarity.from_json(familiarity),
        KnownEncoding.from_json(_stored(db, run, known_encoding.NAME)),
    )


def _stored(db: ExperimentDB, run: RunRef, name: str) -> Any:
    """What lies beside the profile; ``None`` where nothing does."""
    try:
        return db.get_profile(run, name)
    except ExperimentError:
        return None
