"""A run in progress: what it logs, and how it ends."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.errors import DatabaseAwayError, ExperimentError
from harness.experiments import run_parts, runs
from harness.experiments.recorder import Recorder, Rhythm, Spool, Write
from harness.experiments.records import Status
from harness.experiments.store import Store

_log = logging.getLogger(__name__)


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
        created: When it began, in seconds since 1970 by the database's clock.
    """

    def __init__(self, store: Store, rhythm: Rhythm, run_id: int, name: str, created: float) -> None:
        self._store = store
        self._ended: Status | None = None
        self._recorder = Recorder(store, run_id, rhythm)
        self.id = run_id
        self.name = name
        self.created = created

    def keep_unsent_in(self, folder: str | Path) -> None:
        """From here on, what cannot be written because the database is away waits in a file of this folder, also beyond the run's end.

        ``modeltiers runs --send FOLDER`` sends it, and so does the next training whose checkpoints are there.
        """
        self._recorder.spool = Spool(Path(folder), self.id, self.created, self._store.place)

    def secure(self) -> None:
        """From here on, a killed process loses nothing that was logged, even while the database cannot be reached."""
        self._recorder.secure()

    def continue_from(self, run_id: int, created: float, step: int, but: str = "") -> bool:
        """Takes over the metrics of a run that this one resumes; that one stays as it is.

        Args:
            run_id: The run's id.
            created: When it began; another database may have a run of that id.
            step: The last step whose metrics are taken over.
            but: Names of metrics that begin so are not.

        Returns:
            Whether the database has that run.

        Raises:
            ExperimentError: The database cannot be written.
        """
        with self._store.writing() as connection:
            if not runs.copy_metrics(connection, run_id, created, self.id, step, but):
                return False
            runs.add_facts(connection, self.id, {"resumed_from": run_id})
        return True

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
        self._write("config", kind=kind, content=config)

    def log_artifact(self, path: str | Path, kind: str = "file") -> None:
        """Logs a file or folder; see ``ExperimentDB.log_artifact``."""
        found = run_parts.measure(path)
        self._write("artifact", kind=kind, path=str(found.path), sha256=found.sha256, size=found.size)

    def log_scores(self, metric: str, values: Any, dataset: str = "") -> None:
        """Logs one number a sample; see ``ExperimentDB.log_scores``."""
        self._write("scores", metric=metric, values=run_parts.score_array(metric, values), dataset=dataset)

    def log_profile(self, profile: Any, name: str = "reference", kind: str = "data") -> None:
        """Logs a profile; see ``ExperimentDB.log_profile``."""
        self._write("profile", name=name, kind=kind, profile=profile)

    def add_facts(self, **facts: Any) -> None:
        """Adds facts, such as ``gist_id`` and ``sha256``, to those the run has."""
        self._write("facts", facts=facts)

    def flush(self) -> None:
        """Writes the pending metrics.

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
        self._write("end", status=status, facts=facts)
        self._ended = status

    def _write(self, what: str, /, **content: Any) -> None:
        """Writes something at once, or puts it off while the database is away and there is a spool."""
        write, recorder = Write(what, content), self._recorder
        try:
            if recorder.is_behind and recorder.spool is not None:
                recorder.flush()  # in the order in which it was given
            with self._store.writing() as connection:
                write.apply(connection, self.id)
        except DatabaseAwayError as error:
            if recorder.spool is None:
                raise
            try:
                recorder.put_off(Write(what, {**content, "time": time.time()}) if what == "end" else write)
            except OSError:
                raise error from None
            if what == "end":
                recorder.complain(
                    f"{error}; what it logged waits in {recorder.spool.file}, and is sent by the next training with checkpoints there, or by "
                    f"`modeltiers runs --send {recorder.spool.file.parent}`"
                )

    def _check_running(self) -> None:
        if self._ended:
            raise ExperimentError(f"run {self.id} ({self.name}) has ended: it is {self._ended}")


def _said(error: BaseException | str) -> str:
    if isinstance(error, str):
        return error
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
