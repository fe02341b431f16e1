"""What the differences of a window come to, once it is known what they do to the model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.evidence import Status
from harness.monitoring.drift.report import DriftReport, FeatureDrift
from harness.monitoring.features.counts import FeatureCounts, NumericCounts
from harness.monitoring.options import is_better_low
from harness.monitoring.performance_impact import estimate_accuracy
from harness.monitoring.performance_impact.impact import PerformanceImpact, measured_accuracy
from harness.monitoring.reference import Reference
from harness.monitoring.window import Window

_PREFIXES = {"outputs": ("output.",), "labels": ("label",), "scores": ("score.",)}


def group_of(feature: str) -> str:
    """Which of ``inputs``, ``outputs``, ``labels`` and ``scores`` a feature belongs to."""
    return next((group for group, prefixes in _PREFIXES.items() if feature.startswith(prefixes)), "inputs")


@dataclass(frozen=True)
class WindowVerdict:
    """A window against its reference.

    Drift fails as long as nobody knows that it is harmless. Where labels show that accuracy holds it warns; scores that changed for the better
    are ok. An estimate of accuracy without labels never makes drift harmless: what makes a model sure of wrong answers shows in no estimate.

    Attributes:
        drift: How the features differ.
        impact: What that does to the model's accuracy; ``None`` where it is neither known nor to be estimated.
        improved: Scores that changed for the better.
    """

    drift: DriftReport
    impact: PerformanceImpact | None
    improved: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls, drift: DriftReport, reference: Reference, window: Window, confidence: NDArray[np.float64] | None, margin: float
    ) -> WindowVerdict:
        """The verdict on a window.

        Args:
            drift: How it differs.
            reference: From what.
            window: What was measured of it.
            confidence: How sure the model is of each row, by the reference's measure, ``[N]``; ``None`` where that is not known.
            margin: The loss of accuracy that is allowed, as a share.
        """
        profiles = reference.profile.features, window.profile.features
        scores = [one.feature for one in drift.features if group_of(one.feature) == "scores"]
        improved = {name for name in scores if _has_improved(name, profiles[0][name], profiles[1][name])}
        return cls(drift, _impact(reference, window, confidence, margin), frozenset(improved))

    def group(self, name: str) -> list[FeatureDrift]:
        """The features of a group, the gravest first."""
        found = [one for one in self.drift.features if group_of(one.feature) == name]
        return sorted(found, key=lambda one: -self.status_of(one).severity)

    def status_of(self, feature: FeatureDrift) -> Status:
        """The verdict on a feature."""
        if feature.feature in self.improved:
            return Status.OK
        return Status.WARN if feature.status is Status.FAIL and self.is_harmless else feature.status

    @property
    def is_harmless(self) -> bool:
        """Whether labels rule out a loss of accuracy."""
        return self.impact is not None and self.impact.is_known_not_worse

    @property
    def status(self) -> Status:
        """The verdict on the window."""
        found = [self.status_of(one) for one in self.drift.features]
        found.append(Status.WARN if self.drift.blind or not self.drift.current_n else Status.OK)
        if self.impact is not None:
            found.append(self.impact.status)
        return max(found, key=lambda status: status.severity)


def _impact(
    reference: Reference, window: Window, confidence: NDArray[np.float64] | None, margin: float
) -> PerformanceImpact | None:
    measured = measured_accuracy(reference.profile, window.profile)
    if measured is not None:
        return PerformanceImpact(measured, margin)
    if reference.confidence is None or confidence is None:
        return None
    return PerformanceImpact(estimate_accuracy(reference.confidence, confidence), margin)


def _has_improved(name: str, reference: FeatureCounts, window: FeatureCounts) -> bool:
    """Whether a value of the window is rather better than one of the reference."""
    if not (isinstance(reference, NumericCounts) and isinstance(window, NumericCounts)):
        return False
    before, now = (np.array(one.counts, np.float64) for one in (reference, window))
    if not (before.sum() and now.sum()):
        return False
    before, now = before / before.sum(), now / now.sum()
    greater = float(now @ (np.cumsum(before) - before / 2))  # P(window's > reference's) + half of P(equal)
    return greater < 0.5 if is_better_low(name.removeprefix("score.")) or name.endswith("_error") else greater > 0.5
