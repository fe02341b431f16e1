"""A trial on its way to where it is done, and what comes back."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import Any

from harness.config import SuiteConfig
from harness.errors import UserError
from harness.experiments.records import SweepPoint
from harness.sweeps.grid import Combination
from harness.sweeps.trial import Trial, TrialContext


@dataclass(frozen=True)
class Job:
    """A trial to be done, perhaps in another process or on another machine.

    Attributes:
        combination: The values.
        config: The config with them.
        trial: What to do.
        sweep_id: The sweep.
        db_path: The experiment database, absolute.
        progress: Whether the trial may show progress of its own.
    """

    combination: Combination
    config: SuiteConfig
    trial: Trial
    sweep_id: int
    db_path: str
    progress: bool = False

    @property
    def point(self) -> SweepPoint:
        """Its place in the sweep."""
        return SweepPoint(self.sweep_id, self.combination.params)


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        number: The combination's.
        seconds: How long it took.
        metrics: What the trial returned.
        error: Why it failed, in words; ``None`` where it did not.
    """

    number: int
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None


def do_job(job: Job) -> Outcome:
    """Does a trial in this process. What it prints goes to stderr, as stdout belongs to the result.

    Raises:
        KeyboardInterrupt: It was interrupted.
    """
    started = time.perf_counter()
    number = job.combination.number
    try:
        with redirect_stdout(sys.stderr):
            metrics = _numbers(job.trial(TrialContext(job.config, job.point, job.db_path, job.progress)))
    except (Exception, SystemExit) as failure:
        if _was_interrupted(failure):
            raise KeyboardInterrupt from failure
        seconds = time.perf_counter() - started
        return Outcome(number, seconds, error=reason(failure))
    return Outcome(number, time.perf_counter() - started, metrics)


def reason(error: BaseException) -> str:
    """Why a trial failed: a user's mistake in its own words, any other exception with its type and the user's line."""
    from harness.user_code import raised

    return str(error) if isinstance(error, UserError) else raised(error)


def _numbers(returned: Any) -> dict[str, float]:
    if not isinstance(returned, Mapping):
        raise TypeError(f"a trial returns its metrics, numbers by name, and this one returned {type(returned).__name__}")
    found = {}
    for name, value in returned.items():
        try:
            found[str(name)] = float(value)
        except (TypeError, ValueError):
            raise TypeError(f"a trial returns numbers by name, and {name!r} is {type(value).__name__}") from None
    return found


def _was_interrupted(error: BaseException) -> bool:
    """Whether an exception comes from Ctrl-C; Lightning turns one into SystemExit."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, KeyboardInterrupt):
        seen = seen.__cause__ or seen.__context__
    return seen is not None
