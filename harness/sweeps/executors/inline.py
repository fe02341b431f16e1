"""Trials one after another, in this process."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from harness.sweeps.job import Job, Outcome, do_job


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
