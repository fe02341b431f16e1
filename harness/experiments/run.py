"""A run while it runs; its metrics are kept in memory, and written with a heartbeat from a thread."""

from __future__ import annotations

import atexit
import logging
import os
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Any

from harness.errors import ExperimentError
from harness.experiments import run_parts, runs
from harness.experiments.records import Status
from harness.experiments.store import Store

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rhythm:
    """How often a run writes, and when one that is silent counts as killed.

    Attributes:
        flush_rows: Rows that are written at once, before their time has come.
        flush_seconds: How long a row waits at most; what a SIGKILL can lose.
        heartbeat_seconds: Time between signs of life.
        grace_seconds: Silence after which a run is shown as killed.
    """

    flush_rows: int = 1000
    flush_seconds: float = 1.0
    heartbeat_seconds: float = 10.0
    grace_seconds: float = 60.0


class Recorder:
    """The rows of a run that are not yet written, and the thread that writes them.

    A write that fails keeps its rows in memory for the next one and warns once; closing raises while rows are left. In a forked child
    there is no thread, so rows are written at once; those that waited at the fork are the parent's.

    Args:
        store: The database.
        run_id: The run.
        rhythm: How often it writes.
    """

    def __init__(self, store: Store, run_id: int, rhythm: Rhythm) -> None:
        self._store, self._run_id, self._rhythm = store, run_id, rhythm
        self._rows: list[Mapping[str, Any]] = []
        self._rows_lock, self._write_lock = Lock(), Lock()
        self._wake, self._stop = Event(), Event()
        self._warned, self._beaten = False, time.monotonic()
        self._thread = Thread(target=self._work, daemon=True, name=f"modeltiers-run-{run_id}")
        self._thread.start()
        _recorders.add(self)
        atexit.register(self._at_exit)

    @property
    def waiting(self) -> int:
        """How many rows are not yet written."""
        return len(self._rows)

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Takes rows, which are written within ``flush_seconds``."""
        with self._rows_lock:
            self._rows.extend(rows)
            full = len(self._rows) >= self._rhythm.flush_rows
        if not self._thread.is_alive():
            self.flush()
        elif full:
            self._wake.set()

    def flush(self) -> None:
        """Writes what waits.

        Raises:
            ExperimentError: The database cannot be written; the rows wait on.
        """
        with self._write_lock:
            with self._rows_lock:
                rows, self._rows = self._rows, []
            try:
                with self._store.writing() as connection:
                    runs.beat(connection, self._run_id)
                    if rows:
                        runs.write_metrics(connection, self._run_id, rows)
            except BaseException:
                with self._rows_lock:
                    self._rows = [*rows, *self._rows]
                raise
            self._beaten = time.monotonic()

    def close(self) -> None:
        """Stops the thread and writes what waits; may be called again where it failed.

        Raises:
            ExperimentError: Rows cannot be written.
        """
        self._stop.set()
        self._wake.set()
        self._thread.join()
        if self._rows:
            try:
                self.flush()
            except ExperimentError as error:
                raise ExperimentError(f"{self.waiting} metric rows of run {self._run_id} are not written: {error}") from error
        atexit.unregister(self._at_exit)

    def _work(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(self._rhythm.flush_seconds)
            self._wake.clear()
            if self._stop.is_set():
                return
            if self._rows or time.monotonic() - self._beaten >= self._rhythm.heartbeat_seconds:
                try:
                    self.flush()
                except Exception as error:  # whatever it is, the run goes on and the thread must too
                    self._warn(error)
                    self._stop.wait(self._rhythm.flush_seconds)

    def complain(self, error: Exception) -> None:
        """Says an error that must not stop the run."""
        _log.error("run %d: %s", self._run_id, error)

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            _log.warning("run %d: metrics wait in memory, as they cannot be written: %s", self._run_id, error)

    def _at_exit(self) -> None:
        try:
            self.close()
        except ExperimentError as error:
            self.complain(error)

    def _start_over(self) -> None:
        """In a forked child: no rows, no thread, and locks that nobody holds."""
        self._rows, self._rows_lock, self._write_lock = [], Lock(), Lock()


_recorders: weakref.WeakSet[Recorder] = weakref.WeakSet()


def _after_fork() -> None:
    for recorder in list(_recorders):
        recorder._start_over()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Run:
    """A run while it runs; made by ``ExperimentDB.start_run``.

    Metrics are kept in memory and written in batches from a thread, by count and at the latest every ``Rhythm.flush_seconds``; at the end,
    on failure and when the interpreter exits, what waits is written. A process killed with SIGKILL loses at most the rows of the last
    interval, and those of a write that was under way. The thread also keeps the run's heartbeat.

    As a context manager it ends the run: ``finished``, ``failed`` when the block raises, ``killed`` on Ctrl-C. A run that is never ended
    is shown as killed once its process is gone for the grace period.

    Args:
        store: The database.
        rhythm: How often the run writes.
        run_id: The run's id.
        name: The run's name.
    """

    def __init__(self, store: Store, rhythm: Rhythm, run_id: int, name: str) -> None:
        self._store = store
        self._ended: Status | None = None
        self._recorder = Recorder(store, run_id, rhythm)
        self.id = run_id
        self.name = name

    def log_metric(self, name: str, value: Any, step: int | None = None, epoch: float | None = None) -> None:
        """Logs one value; see ``log_metrics``."""
        self.log_metrics({name: value}, step, epoch)

    def log_metrics(self, values: Mapping[str, Any], step: int | None = None, epoch: float | None = None) -> None:
        """Logs values of one step.

        Args:
            values: Numbers, or arrays and tensors of one number, by name; NaN and infinities are kept.
            step: The step they belong to.
            epoch: The epoch they belong to.

        Raises:
            ExperimentError: A value is no number, a name no text, or the run has ended; nothing is logged then.
        """
        self._check_running()
        self._recorder.add(runs.metric_rows(values, step, epoch, time.time()))

    def log_config(self, kind: str, config: Any) -> None:
        """Logs a config of some kind (``training``, ``task``, ``eval``, ``suite`` …), in place of an earlier one."""
        with self._store.writing() as connection:
            run_parts.write_config(connection, self.id, kind, config)

    def log_artifact(self, path: str | Path, kind: str = "file") -> None:
        """Logs a file or folder; see ``ExperimentDB.log_artifact``."""
        found = run_parts.measure(path)
        with self._store.writing() as connection:
            run_parts.write_artifact(connection, self.id, kind, found)

    def log_scores(self, metric: str, values: Any, dataset: str = "") -> None:
        """Logs one number a sample; see ``ExperimentDB.log_scores``."""
        with self._store.writing() as connection:
            run_parts.write_scores(connection, self.id, metric, values, dataset)

    def log_profile(self, profile: Any, name: str = "reference", kind: str = "data") -> None:
        """Logs a profile; see ``ExperimentDB.log_profile``."""
        with self._store.writing() as connection:
            run_parts.write_profile(connection, self.id, name, kind, profile)

    def add_facts(self, **facts: Any) -> None:
        """Adds facts, such as ``gist_id`` and ``sha256``, to those the run has."""
        with self._store.writing() as connection:
            runs.add_facts(connection, self.id, facts)

    def flush(self) -> None:
        """Writes the metrics that wait.

        Raises:
            ExperimentError: The database cannot be written; they wait on.
        """
        self._recorder.flush()

    def finish(self) -> None:
        """Ends the run as finished.

        Raises:
            ExperimentError: Metrics cannot be written, or the run has ended; where they cannot, it may be called again.
        """
        self._end("finished", {})

    def fail(self, error: BaseException | str) -> None:
        """Ends the run as failed, and keeps the reason as the fact ``error``.

        Raises:
            ExperimentError: Metrics cannot be written, or the run has ended; where they cannot, it may be called again.
        """
        self._end("failed", {"error": _said(error)})

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._ended:
            return
        if error is None or (isinstance(error, SystemExit) and not error.code):
            self.finish()
            return
        try:
            self._end("killed" if isinstance(error, KeyboardInterrupt) else "failed", {"error": _said(error)})
        except ExperimentError as second:  # the block's own error is the one to see
            self._recorder.complain(second)

    def _end(self, status: Status, facts: dict[str, Any]) -> None:
        self._check_running()
        self._recorder.close()
        with self._store.writing() as connection:
            runs.end(connection, self.id, status, facts)
        self._ended = status

    def _check_running(self) -> None:
        if self._ended:
            raise ExperimentError(f"run {self.id} ({self.name}) has ended: it is {self._ended}")


def _said(error: BaseException | str) -> str:
    if isinstance(error, str):
        return error
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
