"""What a run has not written yet: kept in memory for a thread that writes it, and in a file while the database cannot be reached."""

from __future__ import annotations

import atexit
import base64
import json
import logging
import os
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

from sqlalchemy import Connection, select

from harness.documents import plain
from harness.errors import DatabaseAwayError, ExperimentError
from harness.experiments import run_parts, runs
from harness.experiments.store import Store
from harness.experiments.tables import runs as runs_table
from harness.wording import counted

_FORMAT = 1
UNSENT = "unsent-run-*.jsonl"
"""The files in which the writes of runs wait."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Write:
    """Something that a run writes: ``metrics``, or another key of ``_WRITERS``, with what its function takes."""

    kind: str
    content: Mapping[str, Any]

    def apply(self, connection: Connection, run_id: int) -> None:
        """Writes it."""
        _WRITERS[self.kind](connection, run_id, **self.content)

    def to_json(self) -> str:
        """A line of JSON; arrays and bytes in base64."""
        return json.dumps({self.kind: self.content}, default=_encoded)


def _artifact(connection: Connection, run_id: int, kind: str, path: str, sha256: str, size: int) -> None:
    run_parts.write_artifact(connection, run_id, kind, run_parts.FoundFile(Path(path), sha256, size))


def _facts(connection: Connection, run_id: int, facts: Mapping[str, Any]) -> None:
    runs.add_facts(connection, run_id, facts)


_WRITERS: dict[str, Any] = {
    "metrics": runs.write_metrics,
    "config": run_parts.write_config,
    "artifact": _artifact,
    "scores": run_parts.write_scores,
    "profile": run_parts.write_profile,
    "facts": _facts,
    "end": runs.end,
}


def _encoded(value: Any) -> Any:
    """A value that JSON lacks, encoded."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"base64": base64.b64encode(bytes(value)).decode(), "dtype": ""}
    if type(value).__module__ == "numpy" and hasattr(value, "tobytes"):
        return {"base64": base64.b64encode(value.tobytes()).decode(), "dtype": value.dtype.str}
    return plain(value)


def _decoded(found: dict[str, Any]) -> Any:
    if found.keys() != {"base64", "dtype"}:
        return found
    import numpy as np

    content = base64.b64decode(found["base64"])
    return np.frombuffer(content, found["dtype"]).copy() if found["dtype"] else content


class Spool:
    """The file of one run: a line about the run, and one for everything that waits.

    Lines are only added, and each is on the disk before the call returns, so that a killed process loses none; half a line at the end is one
    that was being added. The file is deleted once the database has all of it.

    Args:
        folder: Where the file goes.
        run_id: The run.
        created: When it began, by the database's clock: with the id it tells the run from those of other databases.
        place: The database, for people.
    """

    def __init__(self, folder: Path, run_id: int, created: float, place: str) -> None:
        self.file = folder / UNSENT.replace("*", str(run_id))
        self._head = {"format": _FORMAT, "run": run_id, "created": created, "database": place}
        self._kept = (0, 0)

    def keep(self, rows: Sequence[Mapping[str, Any]], writes: Sequence[Write]) -> None:
        """Adds what waits and is not yet in the file; of both, what was there before stays first.

        Raises:
            OSError: The file cannot be written.
        """
        kept_rows, kept_writes = self._kept
        new = [*([Write("metrics", {"rows": rows[kept_rows:]})] if rows[kept_rows:] else []), *writes[kept_writes:]]
        if not new:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as file:
            head = [] if file.tell() else [json.dumps(self._head)]
            file.write("".join(f"{line}\n" for line in (*head, *(write.to_json() for write in new))))
            file.flush()
            os.fsync(file.fileno())
        self._kept = len(rows), len(writes)

    def clear(self) -> None:
        """Deletes the file: the database has all of it."""
        if any(self._kept):
            self.file.unlink(missing_ok=True)
            self._kept = (0, 0)


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

    A write that fails keeps its rows in memory for the next one and warns once; closing raises while rows are left, or puts them into the
    spool where there is one. In a forked child there is no thread, so rows are written at once; those that waited at the fork are the
    parent's.

    Args:
        store: The database.
        run_id: The run.
        rhythm: How often it writes.

    Attributes:
        spool: Where what waits is kept while the database is away; ``None`` for in memory only.
    """

    def __init__(self, store: Store, run_id: int, rhythm: Rhythm) -> None:
        self._store, self._run_id, self._rhythm = store, run_id, rhythm
        self.spool: Spool | None = None
        self._rows: list[Mapping[str, Any]] = []
        self._writes: list[Write] = []
        self._is_away = False
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

    @property
    def is_behind(self) -> bool:
        """Whether the database lacks something that was given to be written."""
        return bool(self._rows or self._writes)

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
        """Writes the pending rows.

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
                    for write in self._writes:
                        write.apply(connection, self._run_id)
            except BaseException as error:
                self._is_away = isinstance(error, DatabaseAwayError)
                with self._rows_lock:
                    self._rows = [*rows, *self._rows]
                raise
            self._is_away, self._writes = False, []
            if self.spool is not None:
                self.spool.clear()
            self._beaten = time.monotonic()

    def secure(self) -> None:
        """From here on, a killed process loses nothing: pending rows go to the database, or to the spool while it cannot be reached.

        Where neither can be written, what waits stays in memory, which is said once.
        """
        try:
            # The thread keeps trying, and a server that is away may be slow to say so.
            if self._is_away and self.spool is not None:
                self._keep()
            else:
                self._flush_or_keep()
        except (ExperimentError, OSError) as error:
            self._warn(error)

    def put_off(self, write: Write) -> None:
        """Takes something that cannot be written now; it is written with the next rows, and kept in the spool meanwhile.

        Raises:
            OSError: The spool cannot be written.
        """
        with self._write_lock:
            self._writes.append(write)
        self._keep()

    def _keep(self) -> None:
        assert self.spool is not None
        with self._write_lock, self._rows_lock:
            self.spool.keep(self._rows, self._writes)

    def close(self) -> None:
        """Stops the thread and writes what waits; may be called again where it failed.

        Raises:
            ExperimentError: Rows cannot be written.
        """
        self._stop.set()
        self._wake.set()
        self._thread.join()
        if self.is_behind:
            try:
                self._flush_or_keep()
            except ExperimentError as error:
                raise type(error)(f"{self.waiting} metric rows of run {self._run_id} are not written: {error}") from error
        atexit.unregister(self._at_exit)

    def _flush_or_keep(self) -> None:
        try:
            self.flush()
        except DatabaseAwayError as error:
            if self.spool is None:
                raise
            try:
                self._keep()
            except OSError:
                raise error from None

    def _work(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(self._rhythm.flush_seconds)
            self._wake.clear()
            if self._stop.is_set():
                return
            if self._rows or time.monotonic() - self._beaten >= self._rhythm.heartbeat_seconds:
                try:
                    self.flush()
                except Exception as error:  # whatever it is, the run continues and the thread must too
                    self._warn(error)
                    self._stop.wait(self._rhythm.flush_seconds)

    def complain(self, error: Exception | str) -> None:
        """Reports an error that must not stop the run."""
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
        self._writes, self.spool = [], None


_recorders: weakref.WeakSet[Recorder] = weakref.WeakSet()


def _after_fork() -> None:
    for recorder in list(_recorders):
        recorder._start_over()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def send_unsent(store: Store, folder: Path) -> dict[int, int]:
    """Sends what the runs of a database left in a folder; a file is deleted once all of it is written.

    Metrics that the database has already, because a process was killed between the database and the file, are not written twice. A file of
    another database is left alone.

    Returns:
        How many metric rows were written, by run.

    Raises:
        ExperimentError: The database cannot be written, or a file is none that a run wrote; nothing of that file is written then.
    """
    sent: dict[int, int] = {}
    for file in sorted(folder.glob(UNSENT)) if folder.is_dir() else ():
        with store.exclusive() as connection:
            lines = list(_lines(file))
            if not lines:  # another process has sent it meanwhile
                continue
            run_id = int(lines[0]["run"])
            known = connection.execute(select(runs_table.c.created).where(runs_table.c.id == run_id)).scalar()
            if known != lines[0]["created"]:
                continue
            writes = [Write(kind, content) for line in lines[1:] for kind, content in line.items()]
            sent[run_id] = _send(connection, run_id, writes)
        file.unlink(missing_ok=True)
        _log.info("run %d: %s were sent to %s", run_id, counted(sent[run_id], "metric row"), store.place)
    return sent


def _send(connection: Connection, run_id: int, writes: list[Write]) -> int:
    rows = [row for write in writes if write.kind == "metrics" for row in write.content["rows"]]
    known = runs.metric_keys(connection, run_id, min((row["time"] for row in rows), default=0.0))
    new = [row for row in rows if runs.metric_key(row) not in known]
    if new:
        runs.write_metrics(connection, run_id, new)
    for write in writes:
        if write.kind != "metrics":
            write.apply(connection, run_id)
    return len(new)


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file that are whole; none where there is no such file any more."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise ExperimentError(f"{file}: cannot be read: {error}") from None
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            found = json.loads(line, object_hook=_decoded)
        except (ValueError, RecursionError):
            found = None
        keys = found.keys() if isinstance(found, dict) else set()
        is_ours = {"format", "run", "created"} <= keys if number == 1 else bool(keys) and keys <= _WRITERS.keys()
        if not is_ours:
            raise ExperimentError(f"{file}: line {number} is none that a run wrote; move the file away, or delete the line")
        yield found
