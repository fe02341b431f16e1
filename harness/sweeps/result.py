"""What a sweep found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from harness.documents import strict_json
from harness.experiments.records import Mode
from harness.sweeps.grid import Combination, Grid, shown
from harness.wording import aligned, counted, duration, shortened, six_digits

_LONGEST_ERROR = 110

TrialStatus = Literal["finished", "failed"]


@dataclass(frozen=True)
class TrialResult:
    """What became of one combination.

    Attributes:
        combination: The values, and their number in the grid.
        run_id: Its run in the experiment database.
        status: ``finished`` or ``failed``.
        metrics: By name.
        seconds: How long it took.
        error: Why it failed.
    """

    combination: Combination
    run_id: int
    status: TrialStatus
    metrics: Mapping[str, float]
    seconds: float
    error: str | None = None

    @property
    def params(self) -> Mapping[str, Any]:
        """The values by config key."""
        return self.combination.params

    def to_json(self) -> dict[str, Any]:
        """The result as strict JSON values; NaN and infinities are text."""
        return {
            "number": self.combination.number,
            "params": strict_json(dict(self.params)),
            "run_id": self.run_id,
            "status": self.status,
            "metrics": strict_json(dict(self.metrics)),
            "seconds": self.seconds,
            "error": self.error,
        }


@dataclass(frozen=True)
class SweepResult:
    """What a sweep found.

    Attributes:
        sweep_id: Its id in the experiment database.
        name: Its name.
        metric: What the trials are ordered by.
        mode: ``min`` where smaller is better, ``max`` where greater is.
        grid: The values that were tried.
        trials: Those that were done: the best first, then those whose metric is not finite, then those that failed.
        folder: Where its files are.
    """

    sweep_id: int
    name: str
    metric: str
    mode: Mode
    grid: Grid
    trials: tuple[TrialResult, ...]
    folder: Path

    @cached_property
    def best(self) -> TrialResult | None:
        """The trial whose metric is best, of equals the first; ``None`` where none has a finite one."""
        return self.trials[0] if self.trials and self.value(self.trials[0]) is not None else None

    @property
    def failed(self) -> tuple[TrialResult, ...]:
        """The trials that failed."""
        return tuple(trial for trial in self.trials if trial.status == "failed")

    @property
    def status(self) -> Literal["ok", "warn", "fail"]:
        """``warn`` where some trials failed or were not done, ``fail`` where none has a finite metric."""
        if self.best is None:
            return "fail"
        return "ok" if len(self.trials) == len(self.grid) and not self.failed else "warn"

    def value(self, trial: TrialResult) -> float | None:
        """The metric of a trial; ``None`` where it failed or is not finite."""
        return finite_value(trial, self.metric)

    @property
    def amount(self) -> str:
        """``12 trials``, or ``5 of 12 trials`` where it was stopped."""
        done, combinations = len(self.trials), len(self.grid)
        return f"{done:,} of {counted(combinations, 'trial')}" if done < combinations else counted(done, "trial")

    @property
    def summary(self) -> str:
        """How many trials there are, and which is best."""
        failed = f", {len(self.failed)} failed" if self.failed else ""
        head = f"sweep {self.sweep_id} ({self.name}): {self.amount}{failed}"
        if self.best is None:
            return f"{head}; none has a finite {self.metric}"
        value = six_digits(self.value(self.best))
        return f"{head}; best {self.metric} {value} with {self.best.combination} (run {self.best.run_id})"

    def table(self) -> str:
        """The trials in aligned columns, the best first and marked, under a line that sums them up."""
        if not self.trials:
            return self.summary
        head = ["", *self.grid.values, self.metric, "TOOK", "RUN", "STATUS", *(["ERROR"] if self.failed else [])]
        return f"{self.summary}\n\n{aligned([head, *map(self._row, self.trials)])}"

    def _row(self, trial: TrialResult) -> list[str]:
        values = [shown(value) for value in trial.params.values()]
        metric = six_digits(trial.metrics.get(self.metric)) if trial.status == "finished" else ""
        error = [one_line(trial.error or "")] if self.failed else []
        mark = "*" if trial is self.best else ""
        return [mark, *values, metric, duration(trial.seconds), str(trial.run_id), trial.status, *error]

    def to_json(self) -> dict[str, Any]:
        """The sweep as strict JSON values; NaN and infinities are text."""
        return {
            "status": self.status,
            "sweep_id": self.sweep_id,
            "name": self.name,
            "metric": self.metric,
            "mode": self.mode,
            "grid": strict_json(self.grid.to_json()),
            "combinations": len(self.grid),
            "best": self.best and self.best.to_json(),
            "trials": [trial.to_json() for trial in self.trials],
            "folder": str(self.folder),
        }


def one_line(error: str) -> str:
    """The first line of an error, shortened."""
    return shortened(next(iter(error.strip().splitlines()), ""), _LONGEST_ERROR)


def finite_value(trial: TrialResult, metric: str) -> float | None:
    """A metric of a trial; ``None`` where the trial failed or the metric is not finite."""
    value = trial.metrics.get(metric, math.nan) if trial.status == "finished" else math.nan
    return value if math.isfinite(value) else None


def ordered(trials: Sequence[TrialResult], metric: str, mode: Mode) -> tuple[TrialResult, ...]:
    """The best first; then those whose metric is not finite; then those that failed."""

    def place(trial: TrialResult) -> tuple[bool, bool, float, int]:
        value = finite_value(trial, metric)
        rank = 0.0 if value is None else (value if mode == "min" else -value)
        return trial.status == "failed", value is None, rank, trial.combination.number

    return tuple(sorted(trials, key=place))
