"""A sweep that is running: its options, its trials so far, and what it says of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from filelock import FileLock, Timeout

from harness.config import EvalConfig
from harness.errors import ExperimentError, UserError, did_you_mean
from harness.experiments.database import ExperimentDB
from harness.experiments.records import Mode
from harness.sweeps.executor import Executor, ExecutorName
from harness.sweeps.files import write_files
from harness.sweeps.grid import Grid
from harness.sweeps.result import SweepResult, TrialResult, one_line, ordered
from harness.sweeps.trials import Job, Outcome, Trial, TrialRuns
from harness.tasks import TaskSpec
from harness.wording import duration, six_digits

DEFAULT_DB = "experiments.db"

Database: TypeAlias = ExperimentDB | str | Path
"""An open experiment database, its file, or its URL."""


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """How a grid is swept; each is an argument of ``run_grid_sweep``, which says what it means."""

    metric: str = "val_loss"
    mode: Mode = "min"
    executor: ExecutorName = "inline"
    workers: int | None = None
    db: Database = DEFAULT_DB
    task_spec: TaskSpec | None = None
    train_cfg: EvalConfig | None = None
    eval_cfg: EvalConfig | None = None
    name: str | None = None
    resume: int | None = None
    output_dir: str | Path | None = None
    trial: Trial | None = None
    progress: bool = True


@dataclass
class Sweep:
    """A sweep that is running.

    Attributes:
        db: Where its runs are recorded.
        sweep_id: Its id there.
        name: Its name.
        grid: The values to try.
        options: How it is swept.
        executor: What runs the trials.
        folder: Where its files go.
        done: The trials that are over, by number.
    """

    db: ExperimentDB
    sweep_id: int
    name: str
    grid: Grid
    options: SweepOptions
    executor: Executor
    folder: Path
    done: dict[int, TrialResult] = field(default_factory=dict)

    def run(self, jobs: Sequence[Job]) -> SweepResult:
        """Does the jobs that are not done yet.

        Raises:
            ExperimentError: Another process runs the sweep, the database cannot be used, or no trial has the metric.
            KeyboardInterrupt: It was interrupted.
        """
        with self._locked():
            runs = TrialRuns(self.db, self.sweep_id)
            runs.clear()
            found = runs.finished([job.combination for job in jobs], self.options.metric)
            self.done = {trial.combination.number: trial for trial in found}
            self._announce()
            try:
                self._do([job for job in jobs if job.combination.number not in self.done], runs)
            except BaseException as error:
                self._stop(jobs, runs, isinstance(error, KeyboardInterrupt))
                raise
            result = self.result()
            self.db.finish_sweep(self.sweep_id, "failed" if result.best is None else "finished")
            write_files(result)
            return result

    def result(self) -> SweepResult:
        """What has been found so far."""
        trials = ordered([*self.done.values()], self.options.metric, self.options.mode)
        return SweepResult(self.sweep_id, self.name, self.options.metric, self.options.mode, self.grid, trials, self.folder)

    def _do(self, jobs: Sequence[Job], runs: TrialRuns) -> None:
        if not jobs:
            return
        self.db.finish_sweep(self.sweep_id, "running")
        by_number = {job.combination.number: job for job in jobs}
        with closing(self.executor.run(jobs)) as outcomes:
            for outcome in outcomes:
                self._take(by_number[outcome.number], outcome, runs)

    def _take(self, job: Job, outcome: Outcome, runs: TrialRuns) -> None:
        trial = runs.settle(job, outcome, self.options.metric)
        if trial.status == "finished" and self.options.metric not in trial.metrics:
            trial = self._without_the_metric(trial)
        self.done[job.combination.number] = trial
        self._say_trial(trial)

    def _without_the_metric(self, trial: TrialResult) -> TrialResult:
        """A trial that lacks the metric counts as failed; where none has had it so far, its name is wrong, and the sweep ends.

        Raises:
            ExperimentError: None has had it so far.
        """
        names = sorted({*trial.metrics, *self.db.get_last_metrics([trial.run_id])[0]})
        there = f"It has {', '.join(names)}" if names else "It has no metrics at all"
        lacks = f"run {trial.run_id} has no metric {self.options.metric!r}.{did_you_mean(self.options.metric, names)} {there}"
        if not any(other.status == "finished" for other in self.done.values()):
            raise ExperimentError(
                f"sweep {self.sweep_id}: {lacks}; with another metric, resume={self.sweep_id} continues from here"
            )
        return replace(trial, status="failed", error=lacks)

    def _announce(self) -> None:
        there = f", {len(self.done)} of them done before," if self.done else ""
        self._say(
            f"sweep {self.sweep_id} ({self.name}): {len(self.grid)} trials{there} {self.executor}, recorded in {self.db.store.place}"
        )

    def _say(self, line: str) -> None:
        if self.options.progress:
            print(line, file=sys.stderr, flush=True)

    def _say_trial(self, trial: TrialResult) -> None:
        """How a trial ended: ``trial 3/12  learning_rate=0.001 batch_size=8  val_loss 1.234  12 s``."""
        metric = self.options.metric
        found = f"{metric} {six_digits(trial.metrics.get(metric))}" if trial.error is None else f"failed: {one_line(trial.error)}"
        self._say(f"trial {len(self.done)}/{len(self.grid)}  {trial.combination}  {found}  {duration(trial.seconds)}")

    def _stop(self, jobs: Sequence[Job], runs: TrialRuns, interrupted: bool) -> None:
        """Leaves everything so that the sweep can be continued later."""
        with suppress(UserError):  # what stopped it is the error to see
            runs.stop([job.combination for job in jobs if job.combination.number not in self.done])
            self.db.finish_sweep(self.sweep_id, "killed" if interrupted else "failed")
            write_files(self.result())
        self._say(
            f"sweep {self.sweep_id} was stopped after {len(self.done)} of {len(self.grid)} trials; resume={self.sweep_id} continues it"
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Holds the sweep, so that no other process runs it at the same time; the system lets go of it when this one dies."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / ".lock", timeout=0)
            lock.acquire()
        except Timeout:
            raise ExperimentError(
                f"sweep {self.sweep_id} is being run by another process, which has locked {self.folder}"
            ) from None
        except OSError as error:
            raise ExperimentError(f"{self.folder}: cannot be written: {error.strerror or error}") from None
        try:
            yield
        finally:
            lock.release()
