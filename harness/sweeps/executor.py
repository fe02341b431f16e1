"""How the trials of a sweep are run: one after another, in several processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import math
import os
import pickle
import sys
import time
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from importlib import import_module
from multiprocessing import current_process
from multiprocessing.connection import wait
from typing import Any, Literal, Protocol, get_args

from harness.errors import ConfigError, ExperimentError, MissingPackageError, did_you_mean
from harness.sweeps.trials import Job, Outcome, do_job
from harness.sweeps.worker import GUARD, Worker, cores, share, visible_gpus
from harness.wording import counted

ExecutorName = Literal["inline", "processes", "ray"]


class Executor(Protocol):
    """A way to do the trials of a sweep."""

    def __str__(self) -> str:
        """The way in words, to be said after the number of trials."""

    def check(self, job: Job) -> None:
        """Checks that it can do jobs like this one.

        Raises:
            UserError: It cannot, or it lacks something it needs.
        """

    def run(self, jobs: Sequence[Job]) -> Generator[Outcome, None, None]:
        """Does the jobs, and gives the outcome of each as it ends; one whose process dies has an outcome too.

        Closing the generator, or an exception in it, stops the trials that are running.
        """


class InlineExecutor:
    """Does trials one after another, in this process."""

    def __str__(self) -> str:
        return "one after another"

    def check(self, job: Job) -> None:
        """Any job will do."""

    def run(self, jobs: Sequence[Job]) -> Generator[Outcome, None, None]:
        """Does the jobs in their order."""
        for job in jobs:
            yield do_job(job)


def make_executor(name: str, workers: int | None = None) -> Executor:
    """An executor by its name.

    Args:
        name: ``inline``, ``processes`` or ``ray``.
        workers: How many trials run at once; ``None`` for what suits the machine.

    Raises:
        ConfigError: There is no such executor, or it cannot have that many workers.
        MissingPackageError: It needs a package that is not installed.
    """
    names = get_args(ExecutorName)
    if name not in names:
        raise ConfigError(f"no executor {name!r}.{did_you_mean(name, names)} Executors: {', '.join(names)}")
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise ConfigError(f"workers: got {workers!r}, expected a number from 1")
    if name == "processes":
        return ProcessExecutor(workers)
    if name == "ray":
        return RayExecutor(workers)
    if workers not in (None, 1):
        raise ConfigError(f"{workers} workers need the executor 'processes' or 'ray': 'inline' does one trial after another")
    return InlineExecutor()


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


_RAY_STOP_SECONDS = 5.0
"""What an interrupted trial has to write what it knows."""


class RayExecutor:
    """Does trials as tasks of the Ray that is running, the one that ``RAY_ADDRESS`` names, or a local one for as long as it takes.

    The database and the files of the config must be within reach of every node: PostgreSQL, or a folder that all of them share.

    Args:
        workers: How many at once; by default one for every two cores of the cluster.

    Raises:
        MissingPackageError: Ray is not installed.
    """

    def __init__(self, workers: int | None = None) -> None:
        try:
            self._ray: Any = import_module("ray")
        except ImportError:
            raise MissingPackageError(
                "the executor 'ray' needs Ray, not installed here: pip install 'pytest-modeltiers[ray]'; "
                "'processes' needs nothing more and uses the cores of this machine"
            ) from None
        self._workers = workers

    def __str__(self) -> str:
        return "as Ray tasks"

    def check(self, job: Job) -> None:
        """Checks that the job can be sent to another process.

        Raises:
            ExperimentError: It cannot.
        """
        try:
            _pack(job)
        except Exception as error:
            raise ExperimentError(f"the trial cannot be sent to a Ray task: {error}") from None

    def run(self, jobs: Sequence[Job]) -> Generator[Outcome, None, None]:
        """Does the jobs, as many at once as there are workers."""
        ray = self._ray
        own = not ray.is_initialized()
        if own:
            self._start()
        pending: dict[Any, tuple[Job, float]] = {}
        try:
            workers, resources = self._shares(len(jobs))
            task = ray.remote(_do).options(max_retries=0, **resources)
            waiting = deque(jobs)
            while waiting or pending:
                while waiting and len(pending) < workers:
                    job = waiting.popleft()
                    pending[task.remote(sys.path, _pack(job))] = job, time.perf_counter()
                for reference in ray.wait(list(pending), num_returns=1)[0]:
                    job, given = pending.pop(reference)
                    yield self._outcome(reference, job, given)
        finally:
            try:
                self._cancel(list(pending))
            finally:
                if own:
                    ray.shutdown()

    def _start(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a sweep reports to nobody unless it is told to
        try:
            self._ray.init(log_to_driver=False, include_dashboard=None if os.environ.get("RAY_ADDRESS") else False)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            place = os.environ.get("RAY_ADDRESS") or "a local Ray"
            raise ExperimentError(f"{place} cannot be reached or started: {_first_sentence(error)}") from error

    def _shares(self, jobs: int) -> tuple[int, dict[str, float]]:
        """How many trials run at once, and what of the cluster each of them gets."""
        there = self._ray.cluster_resources()
        cpus = max(1, int(there.get("CPU", 1)))
        workers = max(1, min(self._workers or cpus // 2, jobs))
        gpus = math.floor(there.get("GPU", 0) / workers * 10_000) / 10_000
        # Ray hides every GPU from a task that asks for none, and gives shares of one, or whole ones.
        return workers, {"num_cpus": max(1, cpus // workers), "num_gpus": min(gpus, 1)}

    def _outcome(self, reference: Any, job: Job, given: float) -> Outcome:
        try:
            outcome: Outcome = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            seconds = time.perf_counter() - given
            return Outcome(job.combination.number, seconds, error=f"its Ray task was lost: {_first_sentence(error)}")
        return outcome

    def _cancel(self, pending: list[Any]) -> None:
        """Stops tasks: by way of Ctrl-C, and for good when they take longer."""
        if not pending:
            return
        for force in (False, True):
            for reference in pending:
                with suppress(Exception):  # it may have ended in this moment
                    self._ray.cancel(reference, force=force)
            _, pending = self._ray.wait(pending, num_returns=len(pending), timeout=_RAY_STOP_SECONDS)
            if not pending:
                return


def _pack(job: Job) -> bytes:
    packed: bytes = import_module("ray.cloudpickle").dumps(job)
    return packed


def _do(path: list[str], pickled_job: bytes) -> Outcome:
    """Does a job in a Ray worker, which finds the modules that the sweep's own process finds."""
    sys.path.extend(folder for folder in path if folder not in sys.path)
    job: Job = import_module("ray.cloudpickle").loads(pickled_job)
    return do_job(job)


def _first_sentence(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].partition(". ")[0].rstrip(".") if lines else type(error).__name__
