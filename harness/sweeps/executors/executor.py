"""How the trials of a sweep are done: one after another, in processes, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Literal, Protocol, get_args

from harness.errors import ConfigError, did_you_mean
from harness.sweeps.trials import Job, Outcome, do_job

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

        Closing the generator, or an exception in it, stops the trials that are going on.
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
        from harness.sweeps.executors.processes import ProcessExecutor

        return ProcessExecutor(workers)
    if name == "ray":
        from harness.sweeps.executors.ray_tasks import RayExecutor

        return RayExecutor(workers)
    if workers not in (None, 1):
        raise ConfigError(f"{workers} workers need the executor 'processes' or 'ray': 'inline' does one trial after another")
    return InlineExecutor()
