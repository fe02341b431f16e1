"""A run while it runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from harness.experiments.errors import ExperimentError
from harness.experiments.metrics import rows_of
from harness.experiments.recorder import Recorder
from harness.experiments.records import Status

if TYPE_CHECKING:
    from harness.experiments.database import ExperimentDB


class Run:
    """A run while it runs; made by ``ExperimentDB.start_run``.

    Metrics are kept in memory and written in batches from a thread, by count and at the latest every ``Rhythm.flush_seconds``; at the end,
    on failure and when the interpreter exits, what waits is written. A process killed with SIGKILL loses at most the rows of the last
    interval, and those of a write that was under way. The thread also keeps the run's heartbeat.

    As a context manager it ends the run: ``finished``, ``failed`` when the block raises, ``killed`` on Ctrl-C. A run that is never ended
    is shown as killed once its process is gone for the grace period.

    Args:
        db: The database.
        run_id: The run's id.
        name: The run's name.
    """

    def __init__(self, db: ExperimentDB, run_id: int, name: str) -> None:
        self._db = db
        self._ended: Status | None = None
        self._recorder = Recorder(db.store, run_id, db.rhythm)
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
        self._recorder.add(rows_of(values, step, epoch, time.time()))

    def log_config(self, kind: str, config: Any) -> None:
        """Logs a config of some kind (``training``, ``task``, ``eval``, ``suite`` …), in place of an earlier one."""
        self._db.log_config(self.id, kind, config)

    def log_artifact(self, path: str | Path, kind: str = "file") -> None:
        """Logs a file or folder; see ``ExperimentDB.log_artifact``."""
        self._db.log_artifact(self.id, path, kind)

    def log_scores(self, metric: str, values: Any, dataset: str = "") -> None:
        """Logs one number a sample; see ``ExperimentDB.log_scores``."""
        self._db.log_scores(self.id, metric, values, dataset)

    def log_profile(self, profile: Any, name: str = "reference", kind: str = "data") -> None:
        """Logs a profile; see ``ExperimentDB.log_profile``."""
        self._db.log_profile(self.id, profile, name, kind)

    def add_facts(self, **facts: Any) -> None:
        """Adds facts, such as ``gist_id`` and ``sha256``, to those the run has."""
        self._db.add_facts(self.id, facts)

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
        self._db.end_run(self.id, status, facts)
        self._ended = status

    def _check_running(self) -> None:
        if self._ended:
            raise ExperimentError(f"run {self.id} ({self.name}) has ended: it is {self._ended}")


def _said(error: BaseException | str) -> str:
    if isinstance(error, str):
        return error
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
