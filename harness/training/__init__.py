"""Training: on Lightning or in a plain loop, resumable to the bit; and the proof that it trains what it should.

What a training reports while it runs is here, with who listens to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.experiments.run import Run


@dataclass(frozen=True)
class Plan:
    """What is about to happen.

    Attributes:
        name: The run's name.
        epochs: How many there will be.
        steps: Optimizer steps of the whole run.
        start: Optimizer steps that were already done, when a run is resumed.
        monitor: The metric that checkpoints are chosen by; smaller is better.
    """

    name: str
    epochs: int
    steps: int
    start: int = 0
    monitor: str = "val_loss"

    def ends_epoch(self, step: int) -> bool:
        """Whether a step is the last one of an epoch."""
        return bool(self.steps) and step % (self.steps // self.epochs) == 0


@dataclass(frozen=True)
class Step:
    """An optimizer step that was done.

    Attributes:
        step: Its number, counted from 1 over the whole run.
        epoch: The epoch it belongs to, counted from 0.
        loss: Mean loss of its batches over all labels, of all processes; NaN where the training step returns none.
        learning_rate: Of the first parameter group.
        grad_norm: Norm of the gradients before clipping; ``None`` where it was not measured.
        examples: Rows that went into it, of all processes.
        seconds: Since the step before.
    """

    step: int
    epoch: int
    loss: float
    learning_rate: float
    grad_norm: float | None
    examples: int
    seconds: float


@dataclass(frozen=True)
class Epoch:
    """An epoch that was done, and what the evaluation after it found.

    Attributes:
        epoch: Counted from 0; -1 for the evaluation before training.
        step: Optimizer steps so far.
        metrics: By name, such as ``val_loss`` and ``val_accuracy``.
    """

    epoch: int
    step: int
    metrics: Mapping[str, float] = field(default_factory=dict)


class Listener:
    """Hears what happens; does nothing unless a subclass does."""

    def on_start(self, plan: Plan) -> None:
        """Training begins, or resumes."""

    def on_step(self, step: Step) -> None:
        """An optimizer step was done."""

    def on_epoch(self, epoch: Epoch) -> None:
        """An epoch was done and evaluated."""

    def on_checkpoint(self) -> None:
        """A checkpoint is about to be written: a run that is resumed from it will not measure again what came before."""

    def on_end(self) -> None:
        """Training is over, in whatever way."""


FINAL = "final_"
"""Prefix of the metrics that a training logs at its end."""


class RunLog(Listener):
    """Logs every step and epoch of a training to a run.

    What was logged up to a checkpoint is in the database before that is written, so that a resumed run can take it over.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._earlier: Mapping[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Which run it is."""
        return {"id": self._run.id, "created": self._run.created}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remembers the run that is resumed."""
        self._earlier = state

    def on_start(self, plan: Plan) -> None:
        """Takes over what the run that is resumed had logged."""
        if plan.start and self._earlier is not None:
            self._run.continue_from(self._earlier["id"], self._earlier["created"], plan.start, FINAL)

    def on_checkpoint(self) -> None:
        """Writes the pending rows."""
        self._run.secure()

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
