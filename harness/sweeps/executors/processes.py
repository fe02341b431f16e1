"""Trials in several processes of this machine."""

from __future__ import annotations

import pickle
import sys
import time
from collections import deque
from collections.abc import Generator, Sequence
from multiprocessing import current_process
from multiprocessing.connection import wait

from harness.errors import ConfigError
from harness.sweeps.executors.shares import cores, share, visible_gpus
from harness.sweeps.executors.worker import GUARD, Worker
from harness.sweeps.trials import Job, Outcome
from harness.wording import counted

_LOOK_SECONDS = 0.5
"""Time between looks at whether a process still lives: one that it has started may keep the connection open after its death."""

_STOP_SECONDS = 10.0
"""What an interrupted trial has to write what it knows."""


class ProcessExecutor:
    """Does trials in several processes, each of which does one after another and has its share of the cores and GPUs.

    A process that dies takes its trial with it and no other, and is replaced. So is one whose trial failed, since what that left behind in
    memory or on the GPU is not known.

    Args:
        workers: How many at once; by default one for every two cores.
    """

    def __init__(self, workers: int | None = None) -> None:
        self._cores = cores()
        self.workers = workers or max(1, self._cores // 2)

    def __str__(self) -> str:
        return f"in {counted(self.workers, 'process')}"

    def check(self, job: Job) -> None:
        """Checks that the job can be sent to another process.

        Raises:
            ConfigError: It cannot.
        """
        if getattr(current_process(), "_inheriting", False):  # a worker that imports the script which started it
            raise ConfigError(GUARD)
        name = getattr(job.trial, "__qualname__", type(job.trial).__name__)
        try:
            pickle.dumps(job)
        except Exception as error:
            raise ConfigError(
                f"the trial {name} cannot be sent to another process: {error}; define it at the top level of a module"
            ) from None
        if getattr(job.trial, "__module__", None) == "__main__" and not hasattr(sys.modules["__main__"], "__file__"):
            raise ConfigError(f"the trial {name} was defined at a prompt, where no other process finds it; put it in a .py file")

    def run(self, jobs: Sequence[Job]) -> Generator[Outcome, None, None]:
        """Does the jobs, as many at once as there are workers."""
        waiting = deque(jobs)
        workers: list[Worker] = []
        count = min(self.workers, len(jobs))
        gpus = visible_gpus() if jobs else []
        try:
            while waiting or any(worker.busy for worker in workers):
                for number in set(range(count)) - {worker.number for worker in workers} if waiting else ():
                    workers.append(Worker(number, share(number, count, self._cores, gpus)))
                for worker in workers:
                    if waiting and not worker.busy:
                        worker.give(waiting.popleft())
                yield from self._collect(workers)
        finally:
            _end(workers)

    def _collect(self, workers: list[Worker]) -> Generator[Outcome, None, None]:
        """Waits a moment for outcomes, and lets workers go whose trials failed."""
        wait([worker.connection for worker in workers if worker.busy], _LOOK_SECONDS)
        for worker in [worker for worker in workers if worker.busy]:
            outcome = worker.collect()
            if outcome is None:
                continue
            if outcome.error is not None:
                workers.remove(worker)
                _end([worker])
            yield outcome


def _end(workers: Sequence[Worker]) -> None:
    """Ends workers; those that are busy have some seconds to write what they know."""
    deadline = time.monotonic() + _STOP_SECONDS
    try:
        for worker in workers:
            worker.interrupt()
        for worker in workers:
            worker.end(deadline - time.monotonic())
    finally:  # on a second Ctrl-C
        for worker in workers:
            worker.end(0)
