"""What a worker process does: the trials that it is sent, until it is sent no more."""

from __future__ import annotations

import os
import pickle
import signal
import time
from contextlib import suppress
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from threading import Thread

from harness.sweeps.job import Job, Outcome, do_job, reason
from harness.sweeps.ledger import STOPPED

READY = "ready"
"""The first message of a worker, once it is there."""


def serve(connection: Connection) -> None:
    """Does the jobs that come down a connection and sends their outcomes back; ends when it is closed, or on SIGINT."""
    _lead_a_group()
    here: list[Job] = []
    Thread(target=_leave_with_the_parent, args=(here,), daemon=True, name="modeltiers-watch").start()
    with suppress(EOFError, OSError, KeyboardInterrupt):
        connection.send(READY)
        while True:
            number, parcel = connection.recv()
            connection.send(_do(number, parcel, here))


def _do(number: int, parcel: bytes, here: list[Job]) -> Outcome:
    started = time.perf_counter()
    try:
        job: Job = pickle.loads(parcel)
    except Exception as error:  # whatever a module of the user's raises on import
        return Outcome(
            number, time.perf_counter() - started, error=f"the trial cannot be loaded in another process: {reason(error)}"
        )
    here[:] = [job]
    outcome = do_job(job)
    here.clear()
    return outcome


def _lead_a_group() -> None:
    """Makes the worker and the processes that its trials start a group of their own.

    They can be stopped together then, and Ctrl-C in a terminal reaches them by way of the sweep's process alone, once.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(os, "setpgrp"):
        os.setpgrp()


def _leave_with_the_parent(here: list[Job]) -> None:
    """Ends this process when the sweep's own is gone, however it went, so that nobody trains for nobody."""
    parent = parent_process()
    if parent is None:
        return
    parent.join()
    try:
        for job in here:
            _mark_as_killed(job)
    finally:
        if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
            os.killpg(os.getpgrp(), signal.SIGKILL)
        os._exit(1)


def _mark_as_killed(job: Job) -> None:
    from harness.experiments.database import ExperimentDB

    with ExperimentDB(job.db_path) as db:
        for run in db.list_runs(status="running", sweep_id=job.sweep_id):
            if run.pid == os.getpid():
                db.end_run(run, "killed", {"error": STOPPED})
