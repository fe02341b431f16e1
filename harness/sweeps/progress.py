"""A line on stderr for every trial that ends."""

from __future__ import annotations

import sys

from harness.sweeps.result import TrialResult
from harness.sweeps.table import one_line
from harness.wording import duration, six_digits


class Progress:
    """Says on stderr how a sweep goes on.

    Args:
        total: How many combinations there are.
        metric: What is said of each.
        quiet: Whether nothing is said at all.
    """

    def __init__(self, total: int, metric: str, quiet: bool = False) -> None:
        self._total, self._metric, self._quiet = total, metric, quiet

    def say(self, line: str) -> None:
        """Says a line."""
        if not self._quiet:
            print(line, file=sys.stderr, flush=True)

    def trial(self, done: int, trial: TrialResult) -> None:
        """Says how a trial ended: ``trial 3/12  learning_rate=0.001 batch_size=8  val_loss 1.234  12 s``.

        Args:
            done: How many have ended, this one included.
            trial: How it ended.
        """
        value = trial.metrics.get(self._metric)
        found = f"{self._metric} {six_digits(value)}" if trial.error is None else f"failed: {one_line(trial.error)}"
        self.say(f"trial {done}/{self._total}  {trial.combination}  {found}  {duration(trial.seconds)}")
