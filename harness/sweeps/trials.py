"""What is done for each combination of a grid, and how it gets to where it is done."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from harness.config import SuiteConfig
from harness.errors import UserError
from harness.experiments.database import ExperimentDB
from harness.experiments.records import SweepPoint
from harness.experiments.run import Run
from harness.sweeps.grid import Combination


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
    from harness.training.command import train_config

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
    """What became of a job.

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
        progress: Whether trials may show progress of their own.
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
