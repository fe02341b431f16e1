"""A trial: the training of one combination, how it reaches its worker, and its run in the experiment database."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from harness.config import SuiteConfig
from harness.documents import flat
from harness.errors import ExperimentError, UserError
from harness.experiments.database import ExperimentDB
from harness.experiments.records import RunRecord, SweepPoint, SweepRecord
from harness.experiments.run import Run
from harness.sweeps.configs import Base
from harness.sweeps.grid import Combination, Grid, TrialResult, identity, shown


@dataclass(frozen=True)
class TrialContext:
    """What a trial is given.

    Attributes:
        config: The config with this trial's values.
        point: The sweep and the values, for ``ExperimentDB.start_run(sweep=…)``.
        db_path: The experiment database.
        progress: Whether the trial may show its progress, on stderr.
    """

    config: SuiteConfig
    point: SweepPoint
    db_path: str
    progress: bool = False

    @contextmanager
    def run(self) -> Iterator[Run]:
        """The trial's run, to log to while it is trained; a trial that starts none gets one when it ends."""
        with ExperimentDB(self.db_path) as db, db.start_run(config=self.config, sweep=self.point) as run:
            yield run


Trial: TypeAlias = Callable[[TrialContext], Mapping[str, Any]]
"""Does the work of one combination and returns its metrics, numbers by name."""


def train_trial(trial: TrialContext) -> dict[str, float]:
    """Trains the trial's config; returns what the evaluation of the final weights found, as ``val_loss`` and the like."""
    from harness.training.run import train_config

    results = train_config(trial.config, sweep=trial.point, db_path=trial.db_path, progress=trial.progress)
    return {f"val_{name}": value for name, value in results["eval_summary"].items()}


@dataclass(frozen=True)
class Job:
    """A trial to be done, perhaps in another process or on another machine.

    Attributes:
        combination: The values.
        config: The config with them.
        trial: What to do.
        sweep_id: The sweep.
        db_path: The experiment database, absolute.
        progress: Whether the trial may show its progress.
    """

    combination: Combination
    config: SuiteConfig
    trial: Trial
    sweep_id: int
    db_path: str
    progress: bool = False

    @property
    def point(self) -> SweepPoint:
        """Its place in the sweep."""
        return SweepPoint(self.sweep_id, self.combination.params)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a job.

    Attributes:
        number: The combination's.
        seconds: How long it took.
        metrics: What the trial returned.
        error: Why it failed, in words; ``None`` where it did not.
    """

    number: int
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None


def do_job(job: Job) -> Outcome:
    """Does a trial in this process. What it prints goes to stderr, as stdout belongs to the result.

    Raises:
        KeyboardInterrupt: It was interrupted.
    """
    started = time.perf_counter()
    number = job.combination.number
    try:
        with redirect_stdout(sys.stderr):
            metrics = _numbers(job.trial(TrialContext(job.config, job.point, job.db_path, job.progress)))
    except (Exception, SystemExit) as failure:
        if _was_interrupted(failure):
            raise KeyboardInterrupt from failure
        seconds = time.perf_counter() - started
        return Outcome(number, seconds, error=reason(failure))
    return Outcome(number, time.perf_counter() - started, metrics)


def make_jobs(
    combinations: Sequence[Combination],
    configs: Sequence[SuiteConfig],
    trial: Trial | None,
    sweep_id: int,
    db_path: str,
    progress: bool,
) -> list[Job]:
    """A job a combination.

    Args:
        combinations: The combinations.
        configs: Their configs.
        trial: What is done for each; by default a training.
        sweep_id: The sweep.
        db_path: The experiment database, absolute.
        progress: Whether trials may show their progress.
    """
    return [
        Job(combination, _own(config, combination, sweep_id), trial or train_trial, sweep_id, db_path, progress)
        for combination, config in zip(combinations, configs, strict=True)
    ]


def reason(error: BaseException) -> str:
    """Why a trial failed: a user's mistake in its own words, any other exception with its type and the user's line."""
    from harness.user_code import raised

    return str(error) if isinstance(error, UserError) else raised(error)


def _numbers(returned: Any) -> dict[str, float]:
    if not isinstance(returned, Mapping):
        raise TypeError(f"a trial returns its metrics, numbers by name, and this one returned {type(returned).__name__}")
    found = {}
    for name, value in returned.items():
        try:
            found[str(name)] = float(value)
        except (TypeError, ValueError):
            raise TypeError(f"a trial returns numbers by name, and {name!r} is {type(value).__name__}") from None
    return found


def _was_interrupted(error: BaseException) -> bool:
    """Whether an exception comes from Ctrl-C; Lightning turns one into SystemExit."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, KeyboardInterrupt):
        seen = seen.__cause__ or seen.__context__
    return seen is not None


def _own(config: SuiteConfig, combination: Combination, sweep_id: int) -> SuiteConfig:
    """The config with a unique name, and for one device, as `auto` would take all that the trials share."""
    own: dict[str, Any] = {}
    if "run_name" not in combination.params:
        own["run_name"] = f"sweep-{sweep_id}-{combination.number:03d}"
    if config.devices == "auto":
        own["devices"] = 1
    return config.model_copy(update=own)


_MOST_LINES = 5
_FACT = "trial"
"""What a trial returned and how long it took, kept as a fact of its run."""

_NEWEST = 64
STOPPED = "its sweep was stopped"


def space_of(base: Base, grid: Grid) -> dict[str, Any]:
    """What is stored of a sweep."""
    return {"grid": grid.to_json(), "base": dict(base.keys)}


def stored_grid(sweep: SweepRecord, base: Base, grid: Grid) -> Grid:
    """The grid of a stored sweep, whose order numbers its combinations.

    Args:
        sweep: The sweep.
        base: The config that it is to be continued with.
        grid: The grid that it is to be continued with; the order of its keys and values does not matter.

    Raises:
        ExperimentError: The sweep has another config or another grid, or was stored by something else.
    """
    space = sweep.space
    if not isinstance(space, Mapping) or not isinstance(space.get("grid"), Mapping) or not isinstance(space.get("base"), Mapping):
        raise ExperimentError(f"sweep {sweep.id} ({sweep.name}) is not a grid sweep and cannot be continued as one")
    stored = Grid({key: tuple(values) for key, values in space["grid"].items()})
    lines = [
        *_differences("grid", _sets(stored), _sets(grid)),
        *_differences("config", flat(space["base"]), flat(dict(base.keys))),
    ]
    if lines:
        more = [f"… and {len(lines) - _MOST_LINES} more"] if len(lines) > _MOST_LINES else []
        differ = "\n".join(f"  {line}" for line in [*lines[:_MOST_LINES], *more])
        raise ExperimentError(
            f"sweep {sweep.id} ({sweep.name}) was started with another config or grid and cannot be continued with this one:\n{differ}"
        )
    return stored


class TrialRuns:
    """The runs of a sweep: those that were there before, and those that its trials make.

    Args:
        db: The database.
        sweep_id: The sweep.
    """

    def __init__(self, db: ExperimentDB, sweep_id: int) -> None:
        self._db, self._sweep_id = db, sweep_id
        self._before = db.list_runs(sweep_id=sweep_id)
        self._newest_before = max((run.id for run in self._before), default=0)

    def clear(self) -> None:
        """Ends the runs of trials whose process is gone."""
        for run in self._before:
            if run.status == "running":
                self._db.end_run(run, "killed", {"error": STOPPED})

    def finished(self, combinations: Iterable[Combination], metric: str) -> list[TrialResult]:
        """The combinations that have a finished run with the metric, each by its newest one."""
        wanted = {combination.key: combination for combination in combinations}
        runs = [run for run in self._before if run.status == "finished"]
        found: dict[str, TrialResult] = {}
        for run, logged in zip(runs, self._db.get_last_metrics(runs), strict=True):
            key = identity(run.sweep_params)
            metrics, seconds = _said_by(run, logged, metric)
            if key in wanted and key not in found and metric in metrics:
                found[key] = TrialResult(wanted[key], run.id, "finished", metrics, seconds)
        return list(found.values())

    def settle(self, job: Job, outcome: Outcome, metric: str) -> TrialResult:
        """Records how a trial ended in its run; a trial without a run gets one."""
        runs = self._runs_of(job.combination)
        if not runs:
            return self._record(job, outcome)
        run, *others = runs
        for other in others:
            if other.status == "running":
                self._db.end_run(other, "killed", {"error": STOPPED})
        error = outcome.error
        if error is None and run.status in ("failed", "killed"):
            error = str(run.facts.get("error", f"its run says that it was {run.status}"))
        facts = {_FACT: {"seconds": outcome.seconds, "metrics": dict(outcome.metrics)}, **({"error": error} if error else {})}
        if error is not None and run.status != "failed":
            self._db.end_run(run, "failed", facts)
        elif run.status == "running":
            self._db.end_run(run, "finished", facts)
        else:
            self._db.add_facts(run, facts)
        if error is not None:
            return TrialResult(job.combination, run.id, "failed", outcome.metrics, outcome.seconds, error)
        metrics = _with(outcome.metrics, self._db.get_last_metrics([run])[0], metric)
        return TrialResult(job.combination, run.id, "finished", metrics, outcome.seconds)

    def stop(self, unfinished: Collection[Combination]) -> None:
        """Marks the runs of trials that were interrupted as killed.

        A run that ended as failed is one of them too, since the interrupt may have come as an exception of another kind.
        """
        keys = {combination.key for combination in unfinished}
        for run in self._db.list_runs(sweep_id=self._sweep_id):
            if run.id > self._newest_before and run.status in ("running", "failed") and identity(run.sweep_params) in keys:
                self._db.end_run(run, "killed", {"error": STOPPED})

    def _runs_of(self, combination: Combination) -> list[RunRecord]:
        """The runs that a trial has made since the sweep began or was resumed, newest first."""
        for limit in (_NEWEST, None):  # the whole list, of thousands, is read only where many trials ended in the meantime
            runs = [run for run in self._db.list_runs(sweep_id=self._sweep_id, limit=limit) if run.id > self._newest_before]
            own = [run for run in runs if identity(run.sweep_params) == combination.key]
            if own or len(runs) < _NEWEST:
                return own
        return []

    def _record(self, job: Job, outcome: Outcome) -> TrialResult:
        facts = {_FACT: {"seconds": outcome.seconds, "metrics": dict(outcome.metrics)}}
        run = self._db.start_run(config=job.config, sweep=job.point, facts=facts)
        if outcome.error is not None:
            run.fail(outcome.error)
            return TrialResult(job.combination, run.id, "failed", outcome.metrics, outcome.seconds, outcome.error)
        run.log_metrics(outcome.metrics)
        run.finish()
        return TrialResult(job.combination, run.id, "finished", outcome.metrics, outcome.seconds)


def _said_by(run: RunRecord, logged: Mapping[str, float], metric: str) -> tuple[dict[str, float], float]:
    """The metrics and seconds of a finished run; what it logged, where its process was killed before it could say."""
    fact: Mapping[str, Any] = run.facts.get(_FACT, {})
    return _with(fact.get("metrics", logged), logged, metric), float(fact.get("seconds", run.seconds))


def _with(metrics: Mapping[str, float], logged: Mapping[str, float], metric: str) -> dict[str, float]:
    """The metrics, with the one that is asked for from what was logged where the trial did not return it."""
    return {**metrics, **({metric: logged[metric]} if metric not in metrics and metric in logged else {})}


def _sets(grid: Grid) -> dict[str, Any]:
    """The values in their own order, for comparison."""
    return {key: sorted(values, key=identity) for key, values in grid.values.items()}


def _differences(what: str, stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    lines = []
    for key in dict.fromkeys([*stored, *given]):
        if key not in given:
            lines.append(f"{what} `{key}`: the sweep has {shown(stored[key])}, and here it is missing")
        elif key not in stored:
            lines.append(f"{what} `{key}`: the sweep does not have it, and here it is {shown(given[key])}")
        elif identity(stored[key]) != identity(given[key]):
            lines.append(f"{what} `{key}`: the sweep has {shown(stored[key])}, and here it is {shown(given[key])}")
    return lines
