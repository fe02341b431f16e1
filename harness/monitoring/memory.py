"""What is remembered beside a reference: the database of its runs, and the windows that were compared with it, which may take its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from harness.data.data_reference import DataReference
from harness.errors import ExperimentError
from harness.experiments.database import ExperimentDB, existing_database
from harness.experiments.records import RunRef, WindowRecord
from harness.monitoring.features.counts import CategoricalCounts
from harness.monitoring.profiles import Profile

Season = Literal["weekday", "hour", "weekday_and_hour"]

SENT_BEFORE = "sent_before"
"""What the database keeps of a window whose rows were another one's, in its result."""

_AT_ONCE = 60.0
"""Seconds: a window whose time is that of its storage was told none."""


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


@dataclass(frozen=True)
class Memory:
    """Where runs are stored, and which of them a model is compared with.

    Attributes:
        db: The database, its file or its URL; ``None`` for nowhere.
        baseline: The run whose scores the model's are compared with.
        reference: The run whose profile the data is compared with.
        run_name: The name of the run that is stored for the comparison.
        config: What is stored with it.
        window: Where the data is that is monitored, stored with it too; ``None`` where nobody could open it again.
        time: When the data is of, in seconds since 1970, UTC; ``None`` for now.
        earlier: Which earlier windows are the reference in place of its stored profile; ``None`` for none.
    """

    db: ExperimentDB | str | Path | None = None
    baseline: RunRef | None = None
    reference: RunRef | None = None
    run_name: str = "monitoring"
    config: Any = None
    window: DataReference | None = None
    time: float | None = None
    earlier: EarlierWindows | None = None

    def opened(self, purpose: str) -> Any:
        """The database, as a context; one of the caller's own stays open.

        Raises:
            ExperimentError: There is none.
        """
        if self.db is None:
            raise ExperimentError(f"`{purpose}` names a run, and there is no database to find it in: give `db_path`")
        return (
            nullcontext(self.db)
            if isinstance(self.db, ExperimentDB)
            else closing(existing_database(self.db, ": nothing is remembered there to be compared with"))
        )

    def before(self, key: str, *, profiles: bool = False) -> list[WindowRecord]:
        """The windows that were compared with the reference before the time of this one, by time; none without a reference.

        Args:
            key: Tells the rows of this one from others.
            profiles: Whether their profiles are read too.
        """
        if self.reference is None:
            return []
        with self.opened("reference_profile_id") as db:
            others = [one for one in db.get_windows(self.reference, self.run_name, profiles=profiles) if one.key != key]
        return [one for one in others if self.time is None or one.time.timestamp() < self.time]

    def sent_before(self, key: str) -> datetime | None:
        """The time of another window of these rows, where both times were told; of a file that was sent for two nights.

        Args:
            key: Tells the rows from others.
        """
        if self.reference is None or self.time is None:
            return None
        with self.opened("reference_profile_id") as db:
            known = next((one for one in db.get_windows(self.reference, self.run_name) if one.key == key), None)
        if known is None:
            return None
        if known.time.timestamp() == self.time:
            before = known.result.get(SENT_BEFORE)
            return None if before is None else datetime.fromtimestamp(before, timezone.utc)
        return known.time if abs((known.created - known.time).total_seconds()) > _AT_ONCE else None


def merged_profile(windows: Sequence[WindowRecord], reference: Profile) -> Profile | None:
    """The rows of windows together, on the scales of their reference; ``None`` where no window can be used.

    Counts on the same scales add up exactly. The levels that a reference saw once say nothing about windows.
    """
    found: Profile | None = None
    for profile in profiles_of(windows, reference):
        shared = [name for name in profile.features if found is None or name in found.features]
        one = profile.only(shared)
        found = one if found is None else found.only(shared).merge(one)
    return found


def profiles_of(windows: Sequence[WindowRecord], reference: Profile) -> Iterator[Profile]:
    """The profiles of windows that were counted on the scales of their reference."""
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
