"""What a training says of itself while it goes on, and who listens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Plan:
    """What is about to happen.

    Attributes:
        name: The run's name.
        epochs: How many there will be.
        steps: Optimizer steps of the whole run.
        start: Optimizer steps that were already done, when a run goes on.
        monitor: The metric that checkpoints are chosen by; smaller is better.
    """

    name: str
    epochs: int
    steps: int
    start: int = 0
    monitor: str = "val_loss"


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
        """Training begins, or goes on."""

    def on_step(self, step: Step) -> None:
        """An optimizer step was done."""

    def on_epoch(self, epoch: Epoch) -> None:
        """An epoch was done and evaluated."""

    def on_end(self) -> None:
        """Training is over, in whatever way."""
