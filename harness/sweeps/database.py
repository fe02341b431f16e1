"""A sweep in the experiment database: what it was started with, and the runs of its trials."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from harness.experiments.database import ExperimentDB
from harness.experiments.documents import flat
from harness.experiments.errors import ExperimentError
from harness.experiments.records import RunRecord, SweepRecord
from harness.sweeps.configs import Base
from harness.sweeps.grid import Combination, Grid, identity, shown
from harness.sweeps.result import TrialResult
from harness.sweeps.trials import Job, Outcome

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
        """Makes the run of a trial that is over say how it ended; a trial that made none gets one."""
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
        """The runs that a trial has made since the sweep began or went on, newest first."""
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
    """The values in an order of their own, for comparison."""
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
