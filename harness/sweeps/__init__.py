"""Sweeps: a config trained for every combination of some of its values, here, in processes or on a Ray cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias, get_args

from filelock import FileLock, Timeout

from harness.config import EvalConfig, load_config
from harness.errors import ConfigError, ExperimentError, UserError, did_you_mean
from harness.experiments.database import ExperimentDB, existing_database
from harness.experiments.records import Mode
from harness.experiments.store import address_of, file_of
from harness.sweeps.configs import BaseConfig, check_processes, configs_of, read_base
from harness.sweeps.executor import Executor, ExecutorName, make_executor
from harness.sweeps.files import FILES, write_files
from harness.sweeps.grid import Grid, SweepResult, TrialResult, grid_from_options, make_grid, one_line, ordered
from harness.sweeps.trials import Job, Outcome, Trial, TrialRuns, make_jobs, space_of, stored_grid
from harness.tasks import TaskSpec
from harness.wording import Answer, duration, six_digits

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
        """The results so far."""
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
        """Locks the sweep, so that no other process runs it at the same time; the lock ends with this process."""
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


def run_grid_sweep(
    base: BaseConfig,
    grid: Mapping[str, Iterable[Any]],
    *,
    metric: str = "val_loss",
    mode: Mode = "min",
    executor: ExecutorName = "inline",
    workers: int | None = None,
    db: Database | None = None,
    db_path: str | Path | None = None,
    task_spec: TaskSpec | None = None,
    train_cfg: EvalConfig | None = None,
    eval_cfg: EvalConfig | None = None,
    name: str | None = None,
    resume: int | None = None,
    output_dir: str | Path | None = None,
    trial: Trial | None = None,
    progress: bool = True,
) -> SweepResult:
    """Trains a config once for every combination of some of its values.

    Every combination is validated before the first is trained. Each is a run in the database with ``sweep_id`` and ``sweep_params``; one
    that fails is recorded with its reason, and the others are still trained. A sweep that was stopped, by Ctrl-C or by the death of its
    process, is continued with ``resume``: combinations that have a finished run are not trained again.

    Args:
        base: The config: config keys, a config file, or a ``TrainingConfig`` together with ``task_spec``.
        grid: The values to try by config key, dotted where it is nested: ``{"learning_rate": [1e-3, 1e-2], "train.batch_size": [4, 8]}``.
        metric: What the trials are ordered by: one that the trial returns, or logs to its run.
        mode: ``min`` where smaller is better, ``max`` where greater is.
        executor: ``inline`` for one after another, ``processes`` for several at once, ``ray`` for a cluster.
        workers: How many trials run at once; by default one for every two cores.
        db: The experiment database: an open one, a file, or the URL of a PostgreSQL server; by default ``experiments.db``.
        db_path: Another name for ``db``.
        task_spec: What the model is for, in place of what ``base`` says of it.
        train_cfg: The training data, in the same way.
        eval_cfg: The evaluation data, in the same way.
        name: The sweep's name; by default the config's ``run_name`` or ``task_name``.
        resume: The id of the sweep to continue, which must have been started with the same config and grid.
        output_dir: Where ``sweep.csv``, ``sweep.json`` and ``sweep.png`` go; by default ``sweep-<id>`` beside the database.
        trial: What is done for each combination; by default a training.
        progress: Whether a line a trial is printed on stderr.

    Returns:
        The trials, the best first.

    Raises:
        ConfigError: The grid, or a combination of its values, is impossible.
        ExperimentError: The database cannot be used, the sweep to continue was started with another config or grid, or no trial has the metric.
        MissingPackageError: The executor needs a package that is not installed.
        KeyboardInterrupt: It was interrupted; the trials that ran are marked as killed, and the sweep can be continued later.
    """
    return sweep_grid(
        base,
        grid,
        SweepOptions(
            metric=metric,
            mode=mode,
            executor=executor,
            workers=workers,
            db=_one_database(db, db_path),
            task_spec=task_spec,
            train_cfg=train_cfg,
            eval_cfg=eval_cfg,
            name=name,
            resume=resume,
            output_dir=output_dir,
            trial=trial,
            progress=progress,
        ),
    )


def sweep_grid(base: BaseConfig, grid: Mapping[str, Iterable[Any]], options: SweepOptions) -> SweepResult:
    """Trains a config once for every combination of some of its values; see ``run_grid_sweep``."""
    if options.mode not in get_args(Mode):
        raise ConfigError(f"mode is 'min' or 'max', not {options.mode!r}")
    origin, wanted = read_base(base, options.task_spec, options.train_cfg, options.eval_cfg), make_grid(grid)
    place = _place_of(options.db)
    configs = configs_of(origin, wanted)
    if options.trial is None:
        check_processes(configs, os.environ)
    executor = make_executor(options.executor, options.workers)
    executor.check(make_jobs(wanted.combinations()[:1], configs[:1], options.trial, 0, "", progress=False)[0])
    with _opened(options, place) as db:
        if options.resume is None:
            name = options.name or configs[0].run_name or configs[0].task_name or configs[0].name
            sweep_id = db.start_sweep(name, space_of(origin, wanted))
        else:
            before = db.get_sweep(options.resume)
            wanted, sweep_id, name = stored_grid(before, origin, wanted), before.id, before.name
            configs = configs_of(origin, wanted)
        file = db.store.file
        folder = Path(options.output_dir) if options.output_dir else (file.parent if file else Path.cwd()) / f"sweep-{sweep_id}"
        sweep = Sweep(db, sweep_id, name, wanted, options, executor, folder.resolve())
        shows = options.progress and options.executor == "inline"
        return sweep.run(make_jobs(wanted.combinations(), configs, options.trial, sweep_id, place, shows))


def _one_database(db: Database | None, db_path: str | Path | None) -> Database:
    if db is not None and db_path is not None:
        raise ConfigError("`db` and `db_path` are two names for the same argument: give one of them")
    return db if db is not None else db_path if db_path is not None else DEFAULT_DB


def _opened(options: SweepOptions, place: str) -> AbstractContextManager[ExperimentDB]:
    if isinstance(options.db, ExperimentDB):
        return nullcontext(options.db)
    return ExperimentDB(place) if options.resume is None else existing_database(place, ", so there is no sweep in it to resume")


def _place_of(given: Database) -> str:
    """The path or URL of the database, by which other processes open it too.

    Raises:
        ConfigError: It is something else.
    """
    if isinstance(given, ExperimentDB):
        return given.store.address
    if isinstance(given, (str, Path)):
        file = file_of(address_of(given))
        return str(file or given)
    raise ConfigError(f"`db` is an ExperimentDB, a path or a database URL, not {type(given).__name__}")


def sweep_config(
    path: str | Path, grid_options: Sequence[str], options: SweepOptions, db_path: str | Path | None = None
) -> Answer:
    """Trains a config file once for every combination of some of its values.

    Args:
        path: The config file.
        grid_options: ``key=value,value`` each, or JSON files.
        options: How the grid is swept.
        db_path: The experiment database; by default the config's.

    Returns:
        ``data`` with ``status`` (``ok``; ``warn`` where some trials failed; ``fail`` where none has a finite metric), the ``trials``, the
        ``best`` and the ``files``; and the same for people.

    Raises:
        UserError: What keeps it from being run, in one line.
    """
    config = load_config(path)
    result = sweep_grid(path, grid_from_options(grid_options), replace(options, db=db_path or config.database or options.db))
    return _answer(result)


def _answer(result: SweepResult) -> Answer:
    files = [str(result.folder / name) for name in FILES if (result.folder / name).is_file()]
    return Answer({**result.to_json(), "files": files}, "\n".join([result.table(), "", *files]))
