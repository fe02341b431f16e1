"""The verdict on a window's differences, given their effect on accuracy, which is measured by labels or estimated."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.evidence import Evidence, Status
from harness.experiments.records import ACCURACY, ESTIMATED
from harness.monitoring import Finding, is_better_low
from harness.monitoring.accuracy_estimate import AccuracyEstimate, RowMeasures
from harness.monitoring.drift import DriftReport, FeatureDrift
from harness.monitoring.drift.verdict import DriftFinding
from harness.monitoring.features.counts import FeatureCounts, NumericCounts
from harness.monitoring.late_labels import LateLabels
from harness.monitoring.profiles import Profile
from harness.monitoring.reference import Reference
from harness.monitoring.spread import effects_of
from harness.monitoring.thresholds import wilson_interval
from harness.monitoring.window import Window
from harness.wording import counted

_CORRECT = "score.correct"


class ImpactFinding(Finding):
    """What an estimated loss of accuracy comes to."""

    WORSE = "harmful", Status.FAIL
    """The whole interval of the loss is beyond the margin."""
    UNPROVEN = "unproven", Status.WARN
    """The loss is beyond the margin, its interval not all of it."""
    CANNOT_TELL = "cannot tell", Status.WARN
    """It is not, but the interval is so wide that it says little; of an estimate, that it reaches beyond the margin."""
    NOT_WORSE = "harmless", Status.OK
    """It is not, and is known well enough."""


@dataclass(frozen=True)
class PerformanceImpact:
    """The estimated loss of accuracy against what is allowed.

    Attributes:
        estimate: What was estimated.
        margin: The loss that is allowed, as a share: 0.05 is five points.
        warns_in_doubt: Whether an interval that is too wide to tell is a reason to warn.
        unlabelled: The rows whose labels have not come yet, where others are measured by theirs; ``None`` where there are none, or no estimate.
    """

    estimate: AccuracyEstimate
    margin: float = 0.05
    warns_in_doubt: bool = False
    unlabelled: PerformanceImpact | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.margin <= 1:
            raise ValueError(f"the margin is a share of the answers, 0 to 1, got {self.margin}")

    @property
    def finding(self) -> ImpactFinding:
        """What the loss comes to."""
        low, high = self.estimate.loss_interval
        if low > self.margin:
            return ImpactFinding.WORSE
        is_narrow = self.estimate.is_measured and (high - low) / 2 <= self.margin
        if self.estimate.loss > self.margin and (is_narrow or low > 0 or not self.estimate.is_measured):
            return ImpactFinding.UNPROVEN
        is_known = self.estimate.loss <= self.margin and (is_narrow or self.is_ruled_out)
        return ImpactFinding.NOT_WORSE if is_known else ImpactFinding.CANNOT_TELL

    @property
    def is_ruled_out(self) -> bool:
        """Whether the whole interval of the loss is within the margin."""
        return self.estimate.loss_interval[1] <= self.margin

    @property
    def is_known_not_worse(self) -> bool:
        """Whether labels show that; an estimate does not, as it cannot see a model that is sure of wrong answers.

        Where some rows have no label yet, nothing may speak against it in their estimate either.
        """
        is_measured = self.estimate.is_measured and not self.estimate.by_class
        return is_measured and self.is_ruled_out and (self.unlabelled is None or self.unlabelled.is_ruled_out)

    @property
    def status(self) -> Status:
        """The verdict. That rows are too few to tell warns where that was asked for, and where it is drift whose harm nobody can tell."""
        if not self.estimate.n:
            return Status.WARN
        is_no_reason = self.finding is ImpactFinding.CANNOT_TELL and not self.warns_in_doubt
        status = Status.OK if is_no_reason else self.finding.status
        return status if self.unlabelled is None else max(status, self.unlabelled.status, key=lambda one: one.severity)

    @property
    def message(self) -> str:
        """One sentence."""
        estimate = self.estimate
        if not estimate.n:
            return "accuracy cannot be estimated: the window is empty"
        low, high = estimate.interval
        figures = f"{estimate.level:.0%} interval {low:.1%} to {high:.1%}"
        now = (
            f"{estimate.accuracy:.1%} ({figures})"
            if estimate.is_measured
            else f"an estimate of {estimate.accuracy:.1%} ({figures})"
        )
        return (
            f"{self.opening}: {now} against {estimate.reference_accuracy:.1%}, {_change(estimate, self.margin)}; "
            f"{counted(estimate.n, 'row')} against {estimate.reference_n:,}{self._reservation}"
            + ("" if self.unlabelled is None else f"; of the rows without labels: {self.unlabelled.message}")
        )

    @property
    def opening(self) -> str:
        """What came of it, without the figures."""
        is_measured = self.estimate.is_measured
        return {
            ImpactFinding.WORSE: "accuracy has fallen" if is_measured else "accuracy seems to have fallen",
            ImpactFinding.UNPROVEN: self._in_doubt,
            ImpactFinding.CANNOT_TELL: "cannot tell whether accuracy has fallen",
            ImpactFinding.NOT_WORSE: "accuracy has not fallen by more than is allowed"
            if is_measured
            else "no loss of accuracy is seen",
        }[self.finding]

    @property
    def _in_doubt(self) -> str:
        if not self.estimate.is_measured:
            return "accuracy may have fallen"
        is_sure = self.estimate.loss_interval[0] > 0
        return (
            "accuracy has fallen, perhaps by no more than is allowed"
            if is_sure
            else "accuracy may have fallen, but it may be chance"
        )

    @property
    def _reservation(self) -> str:
        """How far an estimate was checked, and what it cannot have seen."""
        if self.estimate.by_class:
            return "; labels have come for some classes first, so each class counts as in the reference"
        if self.estimate.is_measured:
            return ""
        kinds = self.estimate.checked_on
        checked = (
            f"its error was measured on {counted(kinds, 'kind')} of simulated shifts"
            if kinds
            else "its error could not be measured"
        )
        return f"; estimated without labels ({checked}): it does not see confident mistakes, or labels whose meaning changed"

    def evidence(self) -> Evidence:
        """The impact as evidence."""
        return Evidence.judged(
            "estimated_accuracy",
            self.status,
            self.message,
            (100 * self.estimate.loss, 100 * self.margin, "points"),
            details=self.to_json(),
            code="" if self.status is Status.OK else self.worst.finding.code,
        )

    @property
    def worst(self) -> PerformanceImpact:
        """The rows with labels or those without, whichever the status is of."""
        rest = self.unlabelled
        return self if rest is None or rest.status.severity <= replace(self, unlabelled=None).status.severity else rest

    def to_json(self) -> dict[str, Any]:
        """The impact as JSON-ready values."""
        return {
            "status": self.status.value,
            "finding": self.finding.value,
            "message": self.message,
            "margin": self.margin,
            **self.estimate.to_json(),
            "unlabelled": None if self.unlabelled is None else self.unlabelled.to_json(),
        }


def _change(estimate: AccuracyEstimate, margin: float) -> str:
    """``a loss of 5.1 points (3.2 to 7.4, allowed 5)``, or ``a gain``."""
    least, most = estimate.loss_interval
    word, value, low, high = (
        ("loss", estimate.loss, least, most) if estimate.loss >= 0 else ("gain", -estimate.loss, -most, -least)
    )
    return f"a {word} of {100 * value:.1f} points ({100 * low:.1f} to {100 * high:.1f}, allowed {100 * margin:g})"


def measured_accuracy(reference: Profile, window: Profile) -> AccuracyEstimate | None:
    """How often a model is right in a window; ``None`` where either has no labels, or a row has more than one answer."""
    before, now = reference.features.get(_CORRECT), window.features.get(_CORRECT)
    if not (isinstance(before, NumericCounts) and isinstance(now, NumericCounts) and before.finite and now.finite):
        return None
    return accuracy_with_labels(_right(before), before.finite, _right(now), now.finite)


def _right(counts: NumericCounts) -> int:
    """How many values are 1; a profile of zeros and ones keeps each in its own bin."""
    return int(counts.counts[np.searchsorted(counts.edges, 1.0, side="right")])


def accuracy_with_labels(right_before: int, before: int, right_now: int, now: int) -> AccuracyEstimate:
    """The accuracies, and Newcombe's interval of their difference (1998, "Interval estimation for the difference ...", method 10)."""
    p, (low_p, high_p) = right_before / before, wilson_interval(right_before / before, before)
    q, (low_q, high_q) = right_now / now, wilson_interval(right_now / now, now)
    least = p - q - math.hypot(p - low_p, high_q - q)
    most = p - q + math.hypot(high_p - p, q - low_q)
    return AccuracyEstimate(q, (low_q, high_q), p, p - q, (least, most), now, before, is_measured=True)


_PREFIXES = {"outputs": ("output.",), "labels": ("label",), "scores": ("score.",)}


ANSWERS = ("outputs", "scores")
"""The groups that say what a model answers, and not what the data is like."""


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
        has_other_model: Whether the model is not the one of the reference, whose answers are then another's and no drift of the data.
        has_late_classes: Whether the labels that have come differ from the reference's, perhaps only because some classes come first.
    """

    drift: DriftReport
    impact: PerformanceImpact | None
    improved: frozenset[str] = frozenset()
    has_other_model: bool = False
    has_late_classes: bool = False

    @classmethod
    def of(
        cls, drift: DriftReport, reference: Reference, window: Window, measures: RowMeasures | None, margin: float
    ) -> WindowVerdict:
        """The verdict on a window.

        Args:
            drift: How it differs.
            reference: From what.
            window: What was measured of it.
            measures: What is known of each row that has no label; ``None`` where nothing is, or each has one.
            margin: The loss of accuracy that is allowed, as a share.
        """
        profiles = reference.profile.features, window.profile.features
        scores = [one.feature for one in drift.features if group_of(one.feature) == "scores"]
        improved = {name for name in scores if has_improved(name, profiles[0][name], profiles[1][name])}
        measured, before = measured_accuracy(reference.profile, window.profile), reference.profile
        late = None if measured is None else LateLabels.of(before, window, measured.reference_accuracy)
        has_late_classes = late is not None and late.explain(drift)
        if late is not None and has_late_classes:
            measured = late.accuracy()
        impact = _impact(reference, measured, measures, margin)
        found = cls(drift, impact, frozenset(improved), has_late_classes=has_late_classes)
        if impact is None:
            return found
        is_drifted = any(one.status is not Status.OK for one in drift.features if not found.waits_for_labels(one.feature))
        return replace(found, impact=_warning_in_doubt(impact, is_drifted=is_drifted, has_min_power=drift.min_power is not None))

    def group(self, name: str) -> list[FeatureDrift]:
        """The features of a group, the gravest first."""
        found = [one for one in self.drift.features if group_of(one.feature) == name]
        return sorted(found, key=lambda one: -self.status_of(one).severity)

    def waits_for_labels(self, feature: str) -> bool:
        """Whether nobody can tell how a feature is distributed before more labels have come."""
        return self.has_late_classes and group_of(feature) in ("labels", "scores")

    def status_of(self, feature: FeatureDrift) -> Status:
        """The verdict on a feature."""
        if feature.feature in self.improved:
            return Status.OK
        is_no_failure = self.is_harmless or (self.has_other_model and group_of(feature.feature) in ANSWERS)
        is_no_failure = is_no_failure or self.waits_for_labels(feature.feature)
        return Status.WARN if feature.status is Status.FAIL and is_no_failure else feature.status

    @property
    def is_harmless(self) -> bool:
        """Whether labels rule out a loss of accuracy."""
        return self.impact is not None and self.impact.is_known_not_worse

    @property
    def status(self) -> Status:
        """The verdict on the window."""
        found = [self.status_of(one) for one in self.drift.features]
        found.append(Status.WARN if self.drift.warns_of_size else Status.OK)
        if self.impact is not None:
            found.append(self.impact.status)
        return max(found, key=lambda status: status.severity)


def _warning_in_doubt(impact: PerformanceImpact, *, is_drifted: bool, has_min_power: bool) -> PerformanceImpact:
    """An estimate that says little warns where something drifted; labels that do so only where a power was asked for."""
    rest = impact.unlabelled
    if rest is not None:
        rest = _warning_in_doubt(rest, is_drifted=is_drifted, has_min_power=has_min_power)
    is_unexplained = not impact.estimate.is_measured and is_drifted
    return replace(impact, warns_in_doubt=has_min_power or is_unexplained, unlabelled=rest)


def _impact(
    reference: Reference, measured: AccuracyEstimate | None, measures: RowMeasures | None, margin: float
) -> PerformanceImpact | None:
    estimated = None
    if reference.estimator is not None and measures is not None and (len(measures.values) or measured is None):
        estimated = PerformanceImpact(reference.estimator.estimate(measures.values, measures.at_most), margin)
    return estimated if measured is None else PerformanceImpact(measured, margin, unlabelled=estimated)


_BETTER_HIGH = ("correct", "accuracy")


def has_improved(name: str, reference: FeatureCounts, window: FeatureCounts) -> bool:
    """Whether a score changed for the better only: a value of the window is rather better than one of the reference, and no part is worse.

    A loss of which most values fell and some rose by much is not better, and neither is a score of which nobody knows which way is.
    """
    kind = name.rpartition(".")[2]
    is_low = is_better_low(name.removeprefix("score."))
    if not (is_low or kind in _BETTER_HIGH) or not (isinstance(reference, NumericCounts) and isinstance(window, NumericCounts)):
        return False
    before, now = (np.array(one.counts, np.float64) for one in (reference, window))
    if not (before.sum() and now.sum()):
        return False
    chance = math.sqrt(math.log(_ONE_IN) / 2 * (1 / before.sum() + 1 / now.sum()))  # of Smirnov's one-sided distance
    before, now = before / before.sum(), now / now.sum()
    greater = float(now @ (np.cumsum(before) - before / 2))  # P(window's > reference's) + half of P(equal)
    more_below = np.cumsum(now - before)
    worse = float(-more_below.min() if is_low else more_below.max())
    return (greater < 0.5 if is_low else greater > 0.5) and worse <= chance


_ONE_IN = 20.0
"""A part of a score's values is not worse where chance alone gives as much in one of so many windows."""


def measured_of(verdict: WindowVerdict) -> dict[str, Any]:
    """What is kept of a window, by the name of the series: its value, its limit, and whether it is beyond it."""
    found = {one.feature: _of_feature(one) for one in verdict.drift.features}
    return {
        **({ACCURACY: _of_accuracy(verdict.impact)} if verdict.impact is not None and verdict.impact.estimate.n else {}),
        **found,
    }


def sound_effects(verdict: WindowVerdict) -> dict[str, dict[str, tuple[float, float]]]:
    """How large the differences of a window are, by which later ones are judged; not of features that drifted by more than is usual.

    Scores of a window in which accuracy may have fallen are not usual either, or a slow decay would become so.
    """
    drift, impact = verdict.drift, verdict.impact
    sound = [one for one in drift.features if drift.spread is None or one.status is not Status.FAIL]
    if impact is not None and impact.status is not Status.OK:
        sound = [one for one in sound if group_of(one.feature) != "scores"]
    return effects_of(verdict.difference for one in sound for verdict in one.verdicts)


def _of_feature(drift: FeatureDrift) -> dict[str, Any]:
    shown = next((verdict for verdict in drift.verdicts if verdict.difference.aspect == "values"), drift.verdicts[0])
    is_outside = any(verdict.finding is DriftFinding.DRIFTED for verdict in drift.verdicts)
    effect = shown.difference.effect
    limit = effect.floor if shown.usual is None else max(effect.floor, shown.usual.largest)
    return {"value": round(effect.value, 6), "limit": limit, "is_outside": is_outside, "measure": effect.name}


def _of_accuracy(impact: PerformanceImpact) -> dict[str, Any]:
    estimate = impact.estimate
    return {
        "value": estimate.accuracy,
        "limit": estimate.reference_accuracy - impact.margin,
        "is_outside": impact.status.value == "fail",
        "measure": ACCURACY if estimate.is_measured else f"{ESTIMATED} {ACCURACY}",
    }
