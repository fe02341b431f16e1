"""A training's metrics into the experiment database."""

from __future__ import annotations

import math

from harness.experiments.run import Run
from harness.training.records import Epoch, Listener, Step


class RunLog(Listener):
    """Logs every step and epoch of a training to a run.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    def on_step(self, step: Step) -> None:
        """Logs what the step measured."""
        values = {"train_loss": step.loss, "learning_rate": step.learning_rate, "grad_norm": step.grad_norm}
        if step.seconds > 0:
            values["examples_per_second"] = step.examples / step.seconds
        self._run.log_metrics(
            {name: value for name, value in values.items() if value is not None and not math.isnan(value)}, step.step, step.epoch
        )

    def on_epoch(self, epoch: Epoch) -> None:
        """Logs what the evaluation found."""
        if epoch.metrics:
            self._run.log_metrics(epoch.metrics, epoch.step, epoch.epoch)
