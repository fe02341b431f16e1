"""The experiment database: the inputs, measurements and artifacts of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from harness.errors import ExperimentError, did_you_mean
from harness.experiments import run_parts, runs
from harness.experiments.recorder import Rhythm
from harness.experiments.records import (
    ArtifactRecord,
    ComparisonRecord,
    MetricColumns,
    Mode,
    RunRecord,
    RunRef,
    RunTable,
    Scores,
    Status,
    SweepPoint,
    SweepRecord,
    WindowRecord,
)
from harness.experiments.run import Run
from harness.experiments.store import Store, address_of, file_of
from harness.experiments.tables import bring_up_to_date
from harness.provenance import provenance


class ExperimentDB:
    """Runs, with their configs, metrics, artifacts, profiles, scores and comparisons, in SQLite or PostgreSQL.

    Any number of processes may write at once. Every method raises ``ExperimentError``, in one line, where the database cannot be read or
    written, and ``UnknownRunError`` where a run is asked for that is not there. A run is given by its id, a named reference, its name, or
    itself (``RunRef``).

    Args:
        db_path: A SQLite file, made with its folder when it is not there, or ``postgresql://user@host/database``.
        rhythm: How often runs write, and when a silent one counts as killed.

    Raises:
        ExperimentError: It cannot be opened, belongs to another program, or was made by a newer version of this one.
        MissingPackageError: The driver for PostgreSQL is not installed.
    """

    def __init__(self, db_path: str | Path = "experiments.db", rhythm: Rhythm | None = None) -> None:
        self.store = Store(address_of(db_path))
        self.rhythm = rhythm or Rhythm()
        bring_up_to_date(self.store)

    def start_run(
        self,
        name: str | None = None,
        config: Any = None,
        task_spec: Any = None,
        eval_config: Any = None,
        sweep: SweepPoint | None = None,
        *,
        tags: Sequence[str] = (),
        notes: str = "",
        facts: Mapping[str, Any] | None = None,
    ) -> Run:
        """Begins a run; use it as a context manager, or end it with ``finish`` or ``fail``.

        Args:
            name: Its name, which other runs may share; by default the config's ``run_name``, or the task and the time.
            config: The training config, or the whole ``SuiteConfig``.
            task_spec: The task.
            eval_config: The evaluation data.
            sweep: Its place in a sweep.
            tags: Words to find it by.
            notes: Anything a person should know.
            facts: Anything a program should know, such as ``gist_id`` and ``sha256``.
        """
        given = run_parts.sorted_by_kind(config, task_spec, eval_config)
        task = run_parts.task_of(given)
        row = {
            "name": name or run_parts.name_of(given, task),
            "task": task,
            "notes": notes,
            "tags": list(tags),
            "sweep_id": sweep and sweep.sweep_id,
            "sweep_params": sweep and sweep.params,
            "facts": facts or {},
            **provenance(),
        }
        with self.store.writing() as connection:
            if sweep:
                run_parts.read_sweep(connection, sweep.sweep_id)
            run_id, created = runs.begin(connection, row)
            for kind, content in given.items():
                run_parts.write_config(connection, run_id, kind, content)
        return Run(self.store, self.rhythm, run_id, row["name"], created)

    def end_run(self, run: RunRef, status: Status, facts: Mapping[str, Any] | None = None) -> None:
        """Writes how a run ended, with facts about it; ``Run.finish`` and ``Run.fail`` do so for a run of this process."""
        with self.store.writing() as connection:
            runs.end(connection, runs.resolve(connection, run), status, facts or {})

    def resolve(self, run: RunRef) -> int:
        """The id of a run."""
        with self.store.reading() as connection:
            return runs.resolve(connection, run)

    def set_name(self, name: str, run: RunRef) -> None:
        """Makes a name, such as ``"production"``, refer to a run, in place of the one it referred to."""
        with self.store.writing() as connection:
            runs.set_name(connection, name, runs.resolve(connection, run))

    def get_names(self) -> dict[str, int]:
        """The named references, and the ids of their runs."""
        with self.store.reading() as connection:
            return runs.read_names(connection)

    def get_run(self, run: RunRef) -> RunRecord:
        """What is known of a run."""
        with self.store.reading() as connection:
            return runs.read(connection, runs.resolve(connection, run), self.rhythm.grace_seconds)

    def list_runs(
        self,
        status: Status | None = None,
        task: str | None = None,
        name: str | None = None,
        sweep_id: int | None = None,
        limit: int | None = None,
    ) -> list[RunRecord]:
        """The runs that fit every argument given, newest first."""
        if status is not None and status not in get_args(Status):
            raise ExperimentError(f"no status {status!r}.{did_you_mean(status, get_args(Status))} {', '.join(get_args(Status))}")
        wanted = {"status": status, "task": task, "name": name, "sweep_id": sweep_id}
        with self.store.reading() as connection:
            return runs.read_many(connection, self.rhythm.grace_seconds, limit, **wanted)

    def get_best_run(self, metric: str, mode: Mode = "min", task: str | None = None) -> RunRecord | None:
        """The finished run whose last value of a metric is best.

        NaN and infinities are never best; of equals the older wins. ``None`` where no finished run has a finite value.

        Args:
            metric: The metric.
            mode: ``min`` where smaller is better, ``max`` where greater is.
            task: Only runs of this task.
        """
        if mode not in get_args(Mode):
            raise ExperimentError(f"mode is 'min' or 'max', not {mode!r}")
        with self.store.reading() as connection:
            return runs.best_run(connection, metric, mode, task, self.rhythm.grace_seconds)

    def compare_runs(self, compared: Sequence[RunRef]) -> RunTable:
        """Runs side by side: config keys that differ, and the last value of each metric."""
        with self.store.reading() as connection:
            ids = [runs.resolve(connection, run) for run in compared]
            return run_parts.side_by_side(connection, ids, self.rhythm.grace_seconds)

    def get_metrics(self, run: RunRef, name: str | None = None) -> MetricColumns:
        """The logged values of a run, of one metric or of all, in the order in which they were logged."""
        with self.store.reading() as connection:
            return runs.read_metrics(connection, runs.resolve(connection, run), name)

    def get_last_metrics(self, of: Sequence[RunRef], name: str | None = None) -> list[dict[str, float]]:
        """The last value of every metric, or of one, for each of the runs given."""
        with self.store.reading() as connection:
            ids = [runs.resolve(connection, run) for run in of]
            found = runs.read_last_metrics(connection, ids, name)
            return [found[run_id] for run_id in ids]

    def log_config(self, run: RunRef, kind: str, config: Any) -> None:
        """Stores a run's config of some kind (``training``, ``task``, ``eval``, ``suite`` …), in place of an earlier one."""
        with self.store.writing() as connection:
            run_parts.write_config(connection, runs.resolve(connection, run), kind, config)

    def get_configs(self, run: RunRef) -> dict[str, Any]:
        """The configs of a run by kind, as JSON values."""
        with self.store.reading() as connection:
            return run_parts.read_configs(connection, runs.resolve(connection, run))

    def add_facts(self, run: RunRef, facts: Mapping[str, Any]) -> None:
        """Adds facts to those a run has; one of the same name is replaced."""
        with self.store.writing() as connection:
            runs.add_facts(connection, runs.resolve(connection, run), facts)

    def log_artifact(self, run: RunRef, path: str | Path, kind: str = "file") -> None:
        """Stores where a file or folder lies, its sha256 and its size; the content stays where it is."""
        found = run_parts.measure(path)
        with self.store.writing() as connection:
            run_parts.write_artifact(connection, runs.resolve(connection, run), kind, found)

    def get_artifacts(self, run: RunRef) -> list[ArtifactRecord]:
        """The artifacts of a run, oldest first."""
        with self.store.reading() as connection:
            return run_parts.read_artifacts(connection, runs.resolve(connection, run))

    def log_scores(self, run: RunRef, metric: str, values: Any, dataset: str = "") -> None:
        """Stores one number a sample, in place of earlier ones of that metric.

        Args:
            run: The run.
            metric: What was measured of each sample.
            values: ``[N]``, a list, array or tensor. float32 and smaller floats, and truth values, are kept as float32, others as float64.
            dataset: What was scored, such as a dataset's fingerprint: scores of two runs can be paired only where it is the same.
        """
        with self.store.writing() as connection:
            run_parts.write_scores(connection, runs.resolve(connection, run), metric, values, dataset)

    def get_scores(self, run: RunRef, metric: str) -> Scores:
        """The per-sample scores of a run."""
        with self.store.reading() as connection:
            return run_parts.read_scores(connection, runs.resolve(connection, run), metric)

    def get_score_datasets(self, run: RunRef) -> dict[str, str]:
        """What the scores of a run were measured on, by metric; empty for a run without scores."""
        with self.store.reading() as connection:
            return run_parts.read_score_datasets(connection, runs.resolve(connection, run))

    def log_profile(self, run: RunRef, profile: Any, name: str = "reference", kind: str = "data") -> None:
        """Stores a profile: JSON-ready values, an object with ``to_json``, or bytes.

        Args:
            run: The run.
            profile: The profile.
            name: Tells several profiles of a run apart; a newer one of the same name takes the place of the older.
            kind: What it describes.
        """
        with self.store.writing() as connection:
            run_parts.write_profile(connection, runs.resolve(connection, run), name, kind, profile)

    def get_profile(self, run: RunRef, name: str = "reference") -> Any:
        """The newest profile of a run by its name, as JSON values or bytes."""
        with self.store.reading() as connection:
            return run_parts.read_profile(connection, runs.resolve(connection, run), name)

    def log_comparison(self, baseline: RunRef, candidate: RunRef, metric: str, result: Any) -> None:
        """Stores the result of comparing a candidate with a baseline."""
        with self.store.writing() as connection:
            ids = runs.resolve(connection, baseline), runs.resolve(connection, candidate)
            run_parts.write_comparison(connection, *ids, metric, result)

    def get_comparisons(self, run: RunRef) -> list[ComparisonRecord]:
        """The comparisons a run is part of, on either side, oldest first."""
        with self.store.reading() as connection:
            return run_parts.read_comparisons(connection, runs.resolve(connection, run))

    def log_window(
        self,
        reference: RunRef,
        name: str,
        key: str,
        result: Any,
        *,
        status: str,
        rows: int,
        time: float | None = None,
        profile: bytes = b"",
    ) -> None:
        """Stores the result of a window of data, in place of an earlier one of the same rows, with or without labels.

        Args:
            reference: The run whose profile it was compared with.
            name: What was monitored.
            key: Tells its rows from others.
            result: What was measured, JSON-ready.
            status: ``ok``, ``warn`` or ``fail``.
            rows: How many rows it has.
            time: Of the data, in seconds since 1970, UTC; by default now, or as it was stored before.
            profile: Its profile.
        """
        with self.store.writing() as connection:
            run_id = runs.resolve(connection, reference)
            row = {"name": name, "key": key, "status": status, "rows": rows, "result": result, "profile": profile or None}
            run_parts.write_window(connection, run_id, row, time)

    def get_windows(
        self, reference: RunRef, name: str | None = None, limit: int | None = None, *, profiles: bool = False
    ) -> list[WindowRecord]:
        """The windows that were compared with a run's profile, by time; of more than ``limit`` the last.

        Args:
            reference: The run.
            name: Only those of this name.
            limit: How many at most.
            profiles: Whether their profiles are read too.
        """
        with self.store.reading() as connection:
            return run_parts.read_windows(connection, runs.resolve(connection, reference), name, limit, profiles=profiles)

    def start_sweep(self, name: str, space: Any) -> int:
        """Begins a sweep over a space of parameters; returns its id, for ``SweepPoint``."""
        with self.store.writing() as connection:
            return run_parts.begin_sweep(connection, name, space)

    def finish_sweep(self, sweep_id: int, status: Status = "finished") -> None:
        """Writes how a sweep ended."""
        with self.store.writing() as connection:
            run_parts.end_sweep(connection, sweep_id, status)

    def get_sweep(self, sweep_id: int) -> SweepRecord:
        """What is known of a sweep; its runs are ``list_runs(sweep_id=…)``."""
        with self.store.reading() as connection:
            return run_parts.read_sweep(connection, sweep_id)

    def close(self) -> None:
        """Closes the connections; using the database again opens new ones."""
        self.store.close()

    def __enter__(self) -> ExperimentDB:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ExperimentDB({self.store.place!r})"


def existing_database(db_path: str | Path, otherwise: str) -> ExperimentDB:
    """Opens a database that is there; opening another one would make it.

    Args:
        db_path: A file or a URL.
        otherwise: What follows from there being no such file, for the message.

    Raises:
        ExperimentError: It is not there.
    """
    file = file_of(address_of(db_path))
    if file is not None and not file.exists():
        raise ExperimentError(f"{file}: no such database{otherwise}")
    return ExperimentDB(db_path)


def log_profile_to_db(db: ExperimentDB, run_id: RunRef, profile: Any, name: str = "reference", kind: str = "data") -> int:
    """Stores a run's reference profile.

    Args:
        db: The database.
        run_id: The run the profile belongs to.
        profile: A profile, its JSON or its bytes. Under another name than ``reference`` it may be any JSON-ready values or bytes.
        name: Tells several profiles of a run apart; a newer one of the same name takes the place of the older.
        kind: What it describes.

    Returns:
        The run's id: the ``reference_profile_id`` of a config.

    Raises:
        ExperimentError: There is no such run, or the profile cannot be stored, or it is no profile.
    """
    run_parts.check_profile(profile, name)
    db.log_profile(run_id, profile, name, kind)
    return db.resolve(run_id)
