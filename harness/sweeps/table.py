"""A sweep as text."""

from __future__ import annotations

from harness.sweeps.grid import shown
from harness.sweeps.result import SweepResult, TrialResult
from harness.wording import aligned, counted, duration, six_digits

_LONGEST_ERROR = 110


def text_of(result: SweepResult) -> str:
    """The trials in aligned columns, the best first and marked, under a line that sums them up."""
    if not result.trials:
        return summary(result)
    head = ["", *result.grid.values, result.metric, "TOOK", "RUN", "STATUS", *(["ERROR"] if result.failed else [])]
    return f"{summary(result)}\n\n{aligned([head, *(_row(result, trial) for trial in result.trials)])}"


def summary(result: SweepResult) -> str:
    """How many trials there are, and which is best."""
    failed = f", {len(result.failed)} failed" if result.failed else ""
    head = f"sweep {result.sweep_id} ({result.name}): {trials_of(result)}{failed}"
    if result.best is None:
        return f"{head}; none has a finite {result.metric}"
    best = result.best
    return f"{head}; best {result.metric} {six_digits(result.value(best))} with {best.combination} (run {best.run_id})"


def trials_of(result: SweepResult) -> str:
    """``12 trials``, or ``5 of 12 trials`` where it was stopped."""
    done, combinations = len(result.trials), len(result.grid)
    if done < combinations:
        return f"{done} of {combinations} trials"
    return counted(done, "trial")


def one_line(error: str) -> str:
    """The first line of an error, shortened."""
    first = next(iter(error.strip().splitlines()), "")
    return first if len(first) <= _LONGEST_ERROR else f"{first[: _LONGEST_ERROR - 1]}…"


def _row(result: SweepResult, trial: TrialResult) -> list[str]:
    values = [shown(value) for value in trial.params.values()]
    metric = six_digits(trial.metrics.get(result.metric)) if trial.status == "finished" else ""
    error = [one_line(trial.error or "")] if result.failed else []
    return [
        "*" if trial is result.best else "",
        *values,
        metric,
        duration(trial.seconds),
        str(trial.run_id),
        trial.status,
        *error,
    ]
