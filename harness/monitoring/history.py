"""What is kept of each window of a reference, and earlier windows as the reference of later ones: a moving one, or one a season."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from harness.experiments.records import WindowRecord
from harness.experiments.windows import ACCURACY
from harness.monitoring.drift import FeatureDrift
from harness.monitoring.drift.verdict import Finding
from harness.monitoring.features.counts import CategoricalCounts
from harness.monitoring.profiles.profile import Profile
from harness.monitoring.verdict import PerformanceImpact, WindowVerdict

_VALUES = "values"

Season = Literal["weekday", "hour", "weekday_and_hour"]


def measured_of(verdict: WindowVerdict) -> dict[str, Any]:
    """What is kept of a window, by the name of the series: its value, its limit, and whether it is beyond it."""
    found = {one.feature: _of_feature(one) for one in verdict.drift.features}
    return {
        **({ACCURACY: _of_accuracy(verdict.impact)} if verdict.impact is not None and verdict.impact.estimate.n else {}),
        **found,
    }


def _of_feature(drift: FeatureDrift) -> dict[str, Any]:
    shown = next((verdict for verdict in drift.verdicts if verdict.difference.aspect == _VALUES), drift.verdicts[0])
    is_outside = any(verdict.finding is Finding.DRIFTED for verdict in drift.verdicts)
    effect = shown.difference.effect
    return {"value": round(effect.value, 6), "limit": effect.floor, "is_outside": is_outside, "measure": effect.name}


def _of_accuracy(impact: PerformanceImpact) -> dict[str, Any]:
    estimate = impact.estimate
    return {
        "value": estimate.accuracy,
        "limit": estimate.reference_accuracy - impact.margin,
        "is_outside": impact.status.value == "fail",
        "measure": "accuracy" if estimate.is_measured else "estimated accuracy",
    }


@dataclass(frozen=True)
class EarlierWindows:
    """Which earlier windows are a reference in place of the stored one.

    Attributes:
        last: The most windows, the latest first.
        same: What they must have in common with the time of the window: the day of the week, the hour, or both.
    """

    last: int
    same: Season | None = None

    def chosen(self, windows: Sequence[WindowRecord], time: datetime) -> list[WindowRecord]:
        """The windows before a time that have what they must have in common, and did not fail."""
        before = [one for one in windows if one.time < time and one.status != "fail" and one.profile]
        return [one for one in before if self._season(one.time) == self._season(time)][-self.last :]

    def _season(self, time: datetime) -> tuple[int, ...]:
        local = time.astimezone()
        return {"weekday": (local.weekday(),), "hour": (local.hour,), "weekday_and_hour": (local.weekday(), local.hour)}.get(
            self.same or "", ()
        )

    @property
    def said(self) -> str:
        """``the same weekday``, or nothing."""
        return f" of the same {self.same.replace('_', ' ')}" if self.same else ""


def merged_profile(windows: Sequence[WindowRecord], reference: Profile) -> Profile | None:
    """The rows of windows together, on the scales of their reference; ``None`` where no window can be used.

    Counts on the same scales add up exactly. The levels that a reference saw once say nothing about windows.
    """
    found: Profile | None = None
    for profile in _profiles(windows, reference):
        shared = [name for name in profile.features if found is None or name in found.features]
        one = profile.only(shared)
        found = one if found is None else found.only(shared).merge(one)
    return found


def _profiles(windows: Sequence[WindowRecord], reference: Profile) -> Iterator[Profile]:
    for window in windows:
        profile = Profile.from_bytes(window.profile or b"")
        if profile.edges_id == reference.only(profile.features).edges_id:
            yield profile


def without_once(profile: Profile) -> Profile:
    """A profile that no longer says how many levels its reference saw once, which is not known of windows."""
    features = {
        name: replace(feature, once=None) if isinstance(feature, CategoricalCounts) else feature
        for name, feature in profile.features.items()
    }
    return Profile.of(profile.n, features, profile.meta)
