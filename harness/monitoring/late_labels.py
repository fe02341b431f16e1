"""Labels that have come for some rows only, perhaps those of some classes first: what they say of all rows of a window."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.monitoring.accuracy_estimate import AccuracyEstimate, variance_of_share
from harness.monitoring.drift import DriftReport
from harness.monitoring.features.counts import CategoricalCounts
from harness.monitoring.features.values import name_of_id
from harness.monitoring.profiles import Profile
from harness.monitoring.window import LABEL, Window

_CHANCE = 3.0  # deviations by which the rows of a class may exceed what the reference lets expect
_Z = 1.96


@dataclass(frozen=True, eq=False)
class LateLabels:
    """Labels of some rows, by class.

    Where they come for one class first, such as frauds that were reported, neither their shares nor the accuracy of their rows are those of
    the window. How often the model is right within a class does not depend on which classes come first.

    Attributes:
        shares: Of the classes in the reference, ``[K]``.
        rows: Rows of each class that have a label, ``[K]``.
        right: Those of them that the model is right about, ``[K]``.
        waiting: Rows without a label.
        reference_rows: Rows of the reference.
        before: How often the model is right there.
    """

    shares: NDArray[np.float64]
    rows: NDArray[np.int64]
    right: NDArray[np.int64]
    waiting: int
    reference_rows: int
    before: float

    @classmethod
    def of(cls, reference: Profile, window: Window, before: float) -> LateLabels | None:
        """The labels of a window; ``None`` where every row has one or none has, and where some are of a class that the reference lacks."""
        known = reference.features.get(LABEL)
        if window.correct is None or window.labels is None or not isinstance(known, CategoricalCounts) or not known.present:
            return None
        right = window.correct[~window.unlabelled]
        waiting = int(window.unlabelled.sum())
        places = {level: place for place, level in enumerate(known.levels)}
        ids = window.labels.tolist()
        classes = np.array([places.get(name_of_id(each, window.classes), -1) if each >= 0 else -1 for each in ids], np.int64)
        if not waiting or not len(right) or len(classes) != len(right) or (classes < 0).any():
            return None
        shares, count = known.counts / known.present, len(known.levels)
        rows, correct = np.bincount(classes, minlength=count), np.bincount(classes, right, minlength=count)
        return cls(shares, rows, correct.astype(np.int64), waiting, known.present, before)

    def explain(self, drift: DriftReport) -> bool:
        """Whether the classes differ from the reference's, and may do so only because some came first.

        They may where the model's answers to all rows are as before, and the rows without labels can make up for the difference.
        """
        statuses = {one.feature: one.status for one in drift.features}
        if LABEL not in statuses or statuses[LABEL].value != "fail":
            return False
        if any(verdict.is_significant for one in drift.features if one.feature.startswith("output.") for verdict in one.verdicts):
            return False
        n = int(self.rows.sum()) + self.waiting
        deviations = np.sqrt(n * self.shares * (1 - self.shares) * (1 + n / self.reference_rows))
        return bool((self.rows <= n * self.shares + _CHANCE * deviations + 1).all())

    def accuracy(self) -> AccuracyEstimate:
        """How often the model is right where classes are as frequent as in the reference; those without labels may be all right or all wrong."""
        came = self.rows > 0
        right = self.right[came] / self.rows[came]
        known, unknown = float(self.shares[came] @ right), float(self.shares[~came].sum())
        each = [variance_of_share(share, int(n)) for share, n in zip(right.tolist(), self.rows[came].tolist(), strict=True)]
        error = math.sqrt(float(np.square(self.shares[came]) @ np.array(each)))
        low, high = max(0.0, known - _Z * error), min(1.0, known + unknown + _Z * error)
        now = known / (1 - unknown) if unknown < 1 else self.before
        both = _Z * math.hypot(error, math.sqrt(variance_of_share(self.before, self.reference_rows)))
        loss = self.before - known - unknown - both, self.before - known + both
        n = int(self.rows.sum())
        return AccuracyEstimate(
            now, (low, high), self.before, self.before - now, loss, n, self.reference_rows, is_measured=True, by_class=True
        )
