"""A sweep while it goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from filelock import FileLock, Timeout

from harness.errors import UserError, did_you_mean
from harness.experiments.database import ExperimentDB
from harness.experiments.errors import ExperimentError
from harness.experiments.records import Mode
from harness.sweeps.executors.executor import Executor
from harness.sweeps.files import write_files
from harness.sweeps.grid import Grid
from harness.sweeps.job import Job, Outcome
from harness.sweeps.ledger import Ledger
from harness.sweeps.progress import Progress
from harness.sweeps.result import SweepResult, TrialResult, ordered


@dataclass
class Sweep:
    """A sweep while it goes on.

    Attributes:
        db: Where its runs are recorded.
        sweep_id: Its id there.
        name: Its name.
        grid: The values to try.
        metric: What the trials are ordered by.
        mode: ``min`` where smaller is better, ``max`` where greater is.
        executor: Who does the trials.
        folder: Where its files go.
        progress: Where it says how it goes on.
        done: The trials that are over, by number.
    """

    db: ExperimentDB
    sweep_id: int
    name: str
    grid: Grid
    metric: str
    mode: Mode
    executor: Executor
    folder: Path
    progress: Progress
    done: dict[int, TrialResult] = field(default_factory=dict)

    def run(self, jobs: Sequence[Job]) -> SweepResult:
        """Does the jobs that are not done yet.

        Raises:
            ExperimentError: Another process runs the sweep, the database cannot be used, or no trial has the metric.
            KeyboardInterrupt: It was interrupted.
        """
        with self._alone():
            ledger = Ledger(self.db, self.sweep_id)
            ledger.clear()
            found = ledger.finished([job.combination for job in jobs], self.metric)
            self.done = {trial.combination.number: trial for trial in found}
            self._announce()
            try:
                self._do([job for job in jobs if job.combination.number not in self.done], ledger)
            except BaseException as error:
                self._stop(jobs, ledger, isinstance(error, KeyboardInterrupt))
                raise
            result = self.result()
            self.db.finish_sweep(self.sweep_id, "failed" if result.best is None else "finished")
            write_files(result)
            return result

    def result(self) -> SweepResult:
        """What has been found so far."""
        trials = ordered([*self.done.values()], self.metric, self.mode)
        return SweepResult(self.sweep_id, self.name, self.metric, self.mode, self.grid, trials, self.folder)

    def _do(self, jobs: Sequence[Job], ledger: Ledger) -> None:
        if not jobs:
            return
        self.db.finish_sweep(self.sweep_id, "running")
        by_number = {job.combination.number: job for job in jobs}
        with closing(self.executor.run(jobs)) as outcomes:
            for outcome in outcomes:
                self._take(by_number[outcome.number], outcome, ledger)

    def _take(self, job: Job, outcome: Outcome, ledger: Ledger) -> None:
        trial = ledger.settle(job, outcome, self.metric)
        if trial.status == "finished" and self.metric not in trial.metrics:
            trial = self._without_the_metric(trial)
        self.done[job.combination.number] = trial
        self.progress.trial(len(self.done), trial)

    def _without_the_metric(self, trial: TrialResult) -> TrialResult:
        """A trial that lacks the metric counts as failed; where none has had it so far, its name is wrong, and the sweep ends.

        Raises:
            ExperimentError: None has had it so far.
        """
        names = sorted({*trial.metrics, *self.db.get_last_metrics([trial.run_id])[0]})
        there = f"It has {', '.join(names)}" if names else "It has no metrics at all"
        lacks = f"run {trial.run_id} has no metric {self.metric!r}.{did_you_mean(self.metric, names)} {there}"
        if not any(other.status == "finished" for other in self.done.values()):
            raise ExperimentError(f"sweep {self.sweep_id}: {lacks}; resume={self.sweep_id} with another metric goes on from here")
        return replace(trial, status="failed", error=lacks)

    def _announce(self) -> None:
        there = f", {len(self.done)} of them done before," if self.done else ""
        self.progress.say(
            f"sweep {self.sweep_id} ({self.name}): {len(self.grid)} trials{there} {self.executor}, recorded in {self.db.store.place}"
        )

    def _stop(self, jobs: Sequence[Job], ledger: Ledger, interrupted: bool) -> None:
        """Leaves everything so that the sweep can go on later."""
        with suppress(UserError):  # what stopped it is the error to see
            ledger.stop([job.combination for job in jobs if job.combination.number not in self.done])
            self.db.finish_sweep(self.sweep_id, "killed" if interrupted else "failed")
            write_files(self.result())
        self.progress.say(
            f"sweep {self.sweep_id} was stopped after {len(self.done)} of {len(self.grid)} trials; resume={self.sweep_id} goes on"
        )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Holds the sweep, so that no other process runs it at the same time; the system lets go of it when this one dies."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / ".lock", timeout=0)
            lock.acquire()
        except Timeout:
            raise ExperimentError(f"sweep {self.sweep_id} is being run by another process, which holds {self.folder}") from None
        except OSError as error:
            raise ExperimentError(f"{self.folder}: cannot be written: {error.strerror or error}") from None
        try:
            yield
        finally:
            lock.release()
