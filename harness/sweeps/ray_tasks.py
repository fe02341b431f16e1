"""Trials as tasks of a Ray cluster, or of a local Ray."""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

from harness.errors import ExperimentError, MissingPackageError
from harness.sweeps.trials import Job, Outcome, do_job

_STOP_SECONDS = 5.0
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
            _, pending = self._ray.wait(pending, num_returns=len(pending), timeout=_STOP_SECONDS)
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
