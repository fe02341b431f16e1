"""Keeps the metrics of a living run in memory, and writes them and a heartbeat to the database from a thread."""

from __future__ import annotations

import atexit
import logging
import os
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import Any

from harness.experiments import metrics, runs
from harness.experiments.errors import ExperimentError
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
                        metrics.write(connection, self._run_id, rows)
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
