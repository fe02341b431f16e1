"""What a database gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

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
