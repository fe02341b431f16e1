"""What a run keeps so that later data can be compared with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.data.dataset import Dataset
from harness.errors import ExperimentError
from harness.experiments.database import ExperimentDB, log_profile_to_db
from harness.experiments.records import RunRef
from harness.monitoring.accuracy_estimate import ConfidenceThreshold, fit_threshold
from harness.monitoring.confidence import OodScore, confidence_of
from harness.monitoring.data import ENCODING, KnownEncoding
from harness.monitoring.profiles.profile import Profile, load_profile
from harness.monitoring.window import Window

_CONFIDENCE = "confidence"
_OOD_SCORE = "familiarity"


@dataclass(frozen=True)
class Reference:
    """What later data is compared with.

    Attributes:
        profile: How the data was distributed.
        confidence: From which confidence on the model's answers count as right; ``None`` where there was no model, were no labels, or a row
            has more than one answer.
        ood_score: Measures how far rows are from the training data; ``None`` to use the model's own confidence.
        encoding: How the data was read; ``None`` where that was not kept.
    """

    profile: Profile
    confidence: ConfidenceThreshold | None = None
    ood_score: OodScore | None = None
    encoding: KnownEncoding | None = None

    @classmethod
    def of(cls, data: Dataset, window: Window, ood_score: OodScore | None = None) -> Reference:
        """The reference that measured rows make.

        Args:
            data: The rows.
            window: What was measured of them.
            ood_score: Measures how far rows are from the training data.
        """
        sure, right = confidence_of(data, window, ood_score), window.correct
        if sure is None or right is None or not np.isfinite(right).any():
            return cls(window.profile, encoding=KnownEncoding.of(data))
        return cls(window.profile, fit_threshold(sure, right), ood_score, KnownEncoding.of(data))

    def store(self, db: ExperimentDB, run: RunRef) -> int:
        """Stores it with a run, in the place of an older one.

        Returns:
            The run's id: the ``reference_profile_id`` of a config.

        Raises:
            ExperimentError: There is no such run, or it cannot be stored.
        """
        parts = ((_CONFIDENCE, self.confidence), (_OOD_SCORE, self.ood_score), (ENCODING, self.encoding))
        for name, part in parts:
            db.log_profile(run, None if part is None else part.to_json(), name)
        return log_profile_to_db(db, run, self.profile.to_bytes())


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
    threshold, ood_score = (_stored(db, run, name) for name in (_CONFIDENCE, _OOD_SCORE))
    return Reference(
        profile,
        None if threshold is None else ConfidenceThreshold.from_json(threshold),
        None if ood_score is None else OodScore.from_json(ood_score),
        KnownEncoding.from_json(_stored(db, run, ENCODING)),
    )


def _stored(db: ExperimentDB, run: RunRef, name: str) -> Any:
    """What lies beside the profile; ``None`` where nothing does."""
    try:
        return db.get_profile(run, name)
    except ExperimentError:
        return None
