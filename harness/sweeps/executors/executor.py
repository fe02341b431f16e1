"""What every way to do the trials of a sweep has in common."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

from harness.sweeps.job import Job, Outcome


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
