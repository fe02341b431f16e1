"""A worker process: its share of the machine, how the sweep sees it, and its loop, which runs the trials it is sent."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from threading import Thread

from harness.errors import ExperimentError
from harness.processes import end_in_words
from harness.sweeps.trials import STOPPED, Job, Outcome, do_job, reason

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_GPUS = "CUDA_VISIBLE_DEVICES"


def cores() -> int:
    """The cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The CUDA devices this process may use, by the names that ``CUDA_VISIBLE_DEVICES`` has for them."""
    named = os.environ.get(_GPUS)
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def share(worker: int, workers: int, number_of_cores: int, gpus: Sequence[str]) -> dict[str, str]:
    """Environment variables that give a worker its share of the cores and GPUs.

    Args:
        worker: Which one, counted from 0.
        workers: How many there are.
        number_of_cores: Cores to be shared out; each worker has one thread at least.
        gpus: GPUs to be shared out; where there are fewer than workers, several workers have the same.
    """
    threads = str(max(1, number_of_cores // workers))
    own = gpus[worker::workers] if len(gpus) >= workers else gpus[worker % max(len(gpus), 1) :][:1]
    return {**dict.fromkeys(_THREADS, threads), **({_GPUS: ",".join(own)} if len(gpus) > 1 else {})}


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets variables for the processes that a block starts; a number of threads that the user has set stays."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update({name: value for name, value in variables.items() if name not in _THREADS or before[name] is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


GUARD = 'a script that runs a sweep in processes is imported by each of them, so it needs `if __name__ == "__main__":` around what it runs'
"""What is said to the author of a script that its workers would run again."""

_context = get_context("spawn")  # a forked child would have the threads, locks and GPU of a parent that has used them

READY = "ready"
"""The first message of a worker, once it is there."""


class Worker:
    """A process that does one job after another.

    Args:
        number: Which of the workers it is, counted from 0.
        variables: Environment variables it starts with.
    """

    def __init__(self, number: int, variables: Mapping[str, str]) -> None:
        self.number = number
        self.connection, theirs = _context.Pipe()
        # Daemonic processes may not start processes, which data loaders do.
        self._process = _context.Process(target=serve, args=(theirs,), name=f"modeltiers-worker-{number}", daemon=False)
        with environment(variables):
            self._process.start()
        assert self._process.pid is not None
        self._pid = self._process.pid
        theirs.close()
        self._ready, self._job, self._given = False, -1, 0.0

    @property
    def busy(self) -> bool:
        """Whether it has a job."""
        return self._job >= 0

    @property
    def is_alive(self) -> bool:
        """Whether the process is there."""
        return self._process.is_alive()

    def give(self, job: Job) -> None:
        """Sends a job."""
        self._job, self._given = job.combination.number, time.perf_counter()
        with suppress(OSError):  # it is gone, which `collect` will find
            self.connection.send((self._job, pickle.dumps(job)))

    def collect(self) -> Outcome | None:
        """The outcome of its job, where there is one by now; a process that died leaves one that says so.

        Raises:
            ExperimentError: The process ended before it could do anything.
        """
        gone = not self.is_alive
        while self.connection.poll():
            try:
                message = self.connection.recv()
            except (EOFError, OSError):
                gone = True
                break
            if message != READY:
                self._job = -1
                return message  # type: ignore[no-any-return]
            self._ready = True
        return self._lost() if gone else None

    def interrupt(self) -> None:
        """Asks it to end: at once where it is idle, by way of Ctrl-C where it is not."""
        if self.busy and hasattr(os, "killpg"):
            with suppress(OSError):
                os.kill(self._pid, signal.SIGINT)
        self.connection.close()

    def end(self, seconds: float) -> None:
        """Waits until it has ended, ends it when it takes longer, and whatever its trials have left behind."""
        self._process.join(max(seconds, 0))
        if hasattr(os, "killpg"):
            with suppress(OSError):  # there is no such group when nothing is left
                os.killpg(self._pid, signal.SIGKILL)
        if self.is_alive:
            self._process.kill()
        self._process.join()

    def _lost(self) -> Outcome:
        self._process.join()
        code = self._process.exitcode or 0
        if not self._ready and code > 0:
            raise ExperimentError(
                f"a worker process ended with exit status {code} before its first trial, see above. {GUARD[0].upper()}{GUARD[1:]}"
            )
        number, self._job = self._job, -1
        return Outcome(
            number, time.perf_counter() - self._given, error=f"its process {end_in_words(code)} in the middle of the trial"
        )


def serve(connection: Connection) -> None:
    """Does the jobs that arrive on a connection and sends their outcomes back; ends when it is closed, or on SIGINT."""
    _lead_a_group()
    running: list[Job] = []
    Thread(target=_exit_with_the_parent, args=(running,), daemon=True, name="modeltiers-watch").start()
    with suppress(EOFError, OSError, KeyboardInterrupt):
        connection.send(READY)
        while True:
            number, pickled_job = connection.recv()
            connection.send(_do(number, pickled_job, running))


def _do(number: int, pickled_job: bytes, running: list[Job]) -> Outcome:
    started = time.perf_counter()
    try:
        job: Job = pickle.loads(pickled_job)
    except Exception as error:  # whatever a module of the user's raises on import
        return Outcome(
            number, time.perf_counter() - started, error=f"the trial cannot be loaded in another process: {reason(error)}"
        )
    running[:] = [job]
    outcome = do_job(job)
    running.clear()
    return outcome


def _lead_a_group() -> None:
    """Makes the worker and the processes that its trials start their own group.

    They can be stopped together then, and Ctrl-C in a terminal reaches them only through the sweep's process, once.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(os, "setpgrp"):
        os.setpgrp()


def _exit_with_the_parent(running: list[Job]) -> None:
    """Ends this process when the sweep's process is gone, so that no training continues without it."""
    parent = parent_process()
    if parent is None:
        return
    parent.join()
    try:
        for job in running:
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
