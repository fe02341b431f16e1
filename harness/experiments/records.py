"""What is read from the database: records of runs, and the series of a run's windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from harness.wording import counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Status = Literal["running", "finished", "failed", "killed"]
Mode = Literal["min", "max"]


class HasId(Protocol):
    """A run, or what is known of one."""

    @property
    def id(self) -> int:
        """The run's id."""


RunRef: TypeAlias = "int | str | HasId"
"""A run: its id, a reference such as ``"production"``, a run's name (the newest of that name), or the run itself."""


@dataclass(frozen=True)
class SweepPoint:
    """The place of a run in a sweep."""

    sweep_id: int
    params: Mapping[str, Any]


@dataclass(frozen=True)
class RunRecord:
    """What is known of a run.

    Attributes:
        status: ``running``, ``finished``, ``failed`` or ``killed``; a run that has not been heard of for the grace period is killed.
        created: When it began.
        finished: When it ended; ``None`` for one that has not said so.
        heartbeat: When it was last heard of.
        git_commit: The commit of the folder it was started in; ``None`` outside of a repository.
        git_dirty: Whether tracked files had been changed since.
        sweep_id: The sweep it belongs to.
        sweep_params: Its values in that sweep.
        facts: Whatever else was noted, such as ``gist_id``, ``revision``, ``sha256``, and ``error`` for a failed run.
    """

    id: int
    name: str
    status: Status
    task: str
    created: datetime
    finished: datetime | None
    heartbeat: datetime
    git_commit: str | None
    git_dirty: bool | None
    host: str
    pid: int
    notes: str
    tags: tuple[str, ...]
    sweep_id: int | None
    sweep_params: dict[str, Any] | None
    facts: dict[str, Any]

    @property
    def seconds(self) -> float:
        """How long it ran, in seconds; up to its last sign of life for one that has not said that it ended."""
        return ((self.finished or self.heartbeat) - self.created).total_seconds()

    def to_json(self) -> dict[str, Any]:
        """The record with its times as ISO 8601 text."""
        found = asdict(self)
        for key in ("created", "finished", "heartbeat"):
            found[key] = found[key] and found[key].isoformat(timespec="milliseconds")
        return {**found, "tags": list(self.tags), "seconds": self.seconds}


@dataclass(frozen=True)
class MetricColumns:
    """Logged values, one item a row, in the order in which they were logged.

    Attributes:
        name: Names of the metrics.
        step: Steps; ``None`` where none was given.
        epoch: Epochs; ``None`` where none was given.
        value: The values, float64 ``[N]``; NaN and infinities as they were logged.
        time: When each was logged, float64 ``[N]``, seconds since 1970 by the clock of the machine that logged it.
    """

    name: list[str]
    step: list[int | None]
    epoch: list[float | None]
    value: NDArray[np.float64]
    time: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.name)


@dataclass(frozen=True)
class ArtifactRecord:
    """A file or folder that a run made.

    Attributes:
        path: Where it lay, absolute.
        sha256: The hash of its content; for a folder, of its files' names and hashes.
        bytes: Its size.
    """

    kind: str
    path: str
    sha256: str
    bytes: int
    created: datetime


@dataclass(frozen=True)
class Scores:
    """One number a sample.

    Attributes:
        values: float32 or float64 ``[N]``, in the order of the samples.
        dataset: What was scored, such as a dataset's fingerprint: two runs' scores are paired only where it is the same.
    """

    metric: str
    values: NDArray[np.float32] | NDArray[np.float64]
    dataset: str


@dataclass(frozen=True)
class ComparisonRecord:
    """The stored result of comparing a candidate with a baseline."""

    baseline_id: int
    candidate_id: int
    metric: str
    result: Any
    created: datetime


@dataclass(frozen=True)
class WindowRecord:
    """A window of data that was compared with the profile of a run.

    Attributes:
        reference_id: The run.
        name: What was monitored: the name of the config, or of the caller.
        key: Tells its rows from others.
        time: Of the data.
        created: When it was compared.
        status: ``ok``, ``warn`` or ``fail``.
        rows: How many rows it has.
        result: What was measured, by name of the series, and whatever else is kept of it; JSON values.
        profile: Its profile as bytes, where that was asked for.
    """

    reference_id: int
    name: str
    key: str
    time: datetime
    created: datetime
    status: str
    rows: int
    result: Any
    profile: bytes | None = None


@dataclass(frozen=True)
class SweepRecord:
    """A sweep: many runs over a space of parameters."""

    id: int
    name: str
    space: Any
    status: Status
    created: datetime
    finished: datetime | None


@dataclass(frozen=True)
class RunTable:
    """Runs side by side.

    Attributes:
        runs: The runs, in the order asked for.
        configs: Config keys, dotted, whose values differ: one value a run, ``None`` where it has none.
        metrics: The last value of each metric: one a run, ``None`` where it was never logged.
    """

    runs: tuple[RunRecord, ...]
    configs: dict[str, tuple[Any, ...]]
    metrics: dict[str, tuple[float | None, ...]]


ACCURACY = "accuracy"
"""The series of how often the model is right, measured or estimated."""

ESTIMATED = "estimated"
"""How the measure of a value begins that is an estimate."""

_DRAWN = 200


@dataclass(frozen=True)
class Point:
    """A window of a series; its accuracy may be an estimate."""

    time: datetime
    value: float
    limit: float
    is_outside: bool
    measure: str = ""

    @property
    def is_estimated(self) -> bool:
        """Whether there were no labels to measure it by."""
        return self.measure.startswith(ESTIMATED)


@dataclass(frozen=True)
class Series:
    """One measure over the windows of a reference.

    Attributes:
        name: The feature, or ``accuracy``.
        measure: What the values are.
        points: By time.
    """

    name: str
    measure: str
    points: tuple[Point, ...]

    @property
    def left_at(self) -> datetime | None:
        """When the series left its limit and did not come back since; ``None`` where it is within."""
        return self.points[-self.lasts].time if self.lasts else None

    @property
    def lasts(self) -> int:
        """How many windows, up to the last, are beyond the limit."""
        return next((place for place, point in enumerate(reversed(self.points)) if not point.is_outside), len(self.points))

    @property
    def message(self) -> str:
        """``beyond its limit since 2026-11-28 02:00 (3 windows)``, or how often it was."""
        beyond = sum(point.is_outside for point in self.points)
        if self.left_at is not None:
            return f"beyond its limit since {date_text(self.left_at)} ({counted(self.lasts, 'window')})"
        return (
            f"within its limit now, beyond it in {beyond} of {counted(len(self.points), 'window')}"
            if beyond
            else "within its limit"
        )

    def plot(self) -> dict[str, Any]:
        """The series as a plot, see ``harness.charts.pictures``."""
        points = self.points[-_DRAWN:]
        return {
            "kind": "series",
            "title": f"{'' if self.name in self.measure else self.name + ': '}{self.measure} over {counted(len(points), 'window')}",
            "caption": self.message,
            "labels": [f"{date_text(point.time)}{' (estimated)' if point.is_estimated else ''}" for point in points],
            "current": [point.value for point in points],
            "reference": [point.limit for point in points],
        }


def series_of(windows: Sequence[WindowRecord]) -> dict[str, Series]:
    """The series of windows by name, those that are beyond their limit first."""
    found: dict[str, list[Point]] = {}
    measures: dict[str, str] = {}
    for window in windows:
        for name, one in window.result.get("series", {}).items():
            point = Point(window.time, float(one["value"]), float(one["limit"]), bool(one["is_outside"]), str(one["measure"]))
            found.setdefault(name, []).append(point)
            measures[name] = point.measure if not point.is_estimated else measures.get(name, point.measure)
    made = [Series(name, measures[name], tuple(points)) for name, points in found.items()]
    made.sort(key=lambda one: (one.left_at is None, one.name != ACCURACY))
    return {one.name: one for one in made}


def date_text(time: datetime) -> str:
    """``2026-11-30 02:00``."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M")
