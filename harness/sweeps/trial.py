"""What is done for each combination of a grid: by default, a training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from harness.config import SuiteConfig
from harness.experiments.database import ExperimentDB
from harness.experiments.records import SweepPoint
from harness.experiments.run import Run


@dataclass(frozen=True)
class TrialContext:
    """What a trial is given.

    Attributes:
        config: The config with this trial's values.
        point: The sweep and the values, for ``ExperimentDB.start_run(sweep=…)``.
        db_path: The experiment database.
        progress: Whether the trial may show progress of its own, on stderr.
    """

    config: SuiteConfig
    point: SweepPoint
    db_path: str
    progress: bool = False

    @contextmanager
    def run(self) -> Iterator[Run]:
        """The trial's run, to log to while it goes on; a trial that starts none gets one when it ends."""
        with ExperimentDB(self.db_path) as db, db.start_run(config=self.config, sweep=self.point) as run:
            yield run


Trial: TypeAlias = Callable[[TrialContext], Mapping[str, Any]]
"""Does the work of one combination and returns its metrics, numbers by name."""


def train_trial(trial: TrialContext) -> dict[str, float]:
    """Trains the trial's config; returns what the evaluation of the final weights found, as ``val_loss`` and the like."""
    from harness.training.command import train_config

    results = train_config(trial.config, sweep=trial.point, db_path=trial.db_path, progress=trial.progress)
    return {f"val_{name}": value for name, value in results["eval_summary"].items()}
