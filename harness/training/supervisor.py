"""What happens between the steps, whichever engine takes them: progress is reported, the model evaluated and saved, training stopped."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from harness.training.checkpoints import CheckpointFolder, checkpoint_name
from harness.training.events import Epoch, Listener, Plan, Step

Forward = Callable[[], AbstractContextManager[Any]]
"""Makes the context that each forward runs in, such as autocast."""

Evaluate = Callable[[Forward], Mapping[str, float]]
"""Evaluates the model that is being trained."""


STATE_KEY = "conductor"
"""Where a checkpoint keeps the supervisor's state: an earlier name, so that checkpoints of earlier versions can be resumed."""


class HasState(Protocol):
    """Has a state that a checkpoint keeps."""

    def state_dict(self) -> dict[str, Any]:
        """The state: numbers, text and lists of them."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state."""


@dataclass(frozen=True)
class SupervisorOptions:
    """When a supervisor saves and stops.

    Attributes:
        checkpoint_every: Steps after which the last checkpoint is written, beside the ends of epochs.
        patience: Epochs without improvement after which training stops; ``None`` for never.
        limit: Optimizer steps after which it stops; ``None`` for the whole plan.
        resumed: The checkpoint that the run is resumed from.
    """

    checkpoint_every: int | None = None
    patience: int | None = None
    limit: int | None = None
    resumed: Path | None = None


class Supervisor:
    """Hears from the engine what was done, and decides what follows.

    Args:
        plan: What is about to happen.
        listeners: Hear it too, in the leading process.
        evaluate: Judges the model after each epoch; ``None`` for not at all.
        checkpoints: Where checkpoints go; ``None`` for none.
        options: When it saves and stops.
        leads: Whether this process writes files and says what happens.
        remembered: Listeners whose state belongs into the checkpoints, by name.

    Attributes:
        save: Writes a checkpoint; every process calls it. The engine sets it.
        on_bad_step: Told of a loss or norm that is not finite; may raise. The engine sets it.
        delay: Steps whose losses are read at once: reading one from a GPU waits for all its work. The engine sets it.
        should_stop: Whether training is to end before the plan does.
        initial: What the evaluation before training found.
        metrics: What the last evaluation found.
    """

    def __init__(
        self,
        plan: Plan,
        listeners: Sequence[Listener] = (),
        evaluate: Evaluate | None = None,
        checkpoints: CheckpointFolder | None = None,
        options: SupervisorOptions = SupervisorOptions(),
        leads: bool = True,
        remembered: Mapping[str, HasState] | None = None,
    ) -> None:
        self.plan = plan
        self._listeners = listeners if leads else ()
        self._evaluate = evaluate
        self._checkpoints = checkpoints
        self._options = options
        self._leads = leads
        self._remembered = remembered or {}
        self.save: Callable[[Path], None] = lambda path: None
        self.on_bad_step: Callable[[Step], None] = lambda step: None
        self.delay = 1
        self.should_stop = False
        self.initial: Mapping[str, float] = {}
        self.metrics: Mapping[str, float] = {}
        self._best = math.inf
        self._best_name = ""
        self._is_best = False
        self._waited = 0
        self._losses = (0.0, 0)
        self._pending: list[tuple[int, int, Tensor | None, float, Tensor | None, int, float]] = []

    @property
    def last_checkpoint(self) -> Path | None:
        """Where the newest checkpoint is, or would be."""
        return self._checkpoints.last if self._checkpoints is not None else None

    def start(self, forward: Forward) -> None:
        """Training begins, or resumes after a state was loaded."""
        self._keep_best(self._options.resumed)  # in case the run was killed between the two files
        for listener in self._listeners:
            listener.on_start(self.plan)
        if self.plan.start == 0 and self._evaluate is not None:
            self.initial = self.metrics = self._evaluate(forward)
            self._tell(Epoch(-1, 0, self.initial))

    def step_done(
        self, step: int, epoch: int, loss: Tensor | None, rate: float, norm: Tensor | None, examples: int, seconds: float
    ) -> None:
        """An optimizer step was done; the arguments are those of ``Step``, its loss and norm still on the device."""
        self._is_best = False
        self._pending.append((step, epoch, loss, rate, norm, examples, seconds))
        if len(self._pending) >= self.delay:
            self.measure()
        if self._options.limit is not None and step >= self._options.limit:
            self.should_stop = True
        if self._checkpoints is not None and self._options.checkpoint_every and step % self._options.checkpoint_every == 0:
            self._save_last()

    def measure(self) -> None:
        """Reads the losses and norms that are still on the device, and tells the listeners."""
        pending, self._pending = self._pending, []
        for step, epoch, loss, rate, norm, examples, seconds in pending:
            value = math.nan if loss is None else float(loss)
            said = Step(step, epoch, value, rate, None if norm is None else float(norm), examples, seconds)
            if not (math.isfinite(value) or loss is None) or not math.isfinite(said.grad_norm or 0.0):
                self.on_bad_step(said)
            if loss is not None:
                self._losses = self._losses[0] + value, self._losses[1] + 1
            for listener in self._listeners:
                listener.on_step(said)

    def epoch_done(self, epoch: int, step: int, forward: Forward, metrics: Mapping[str, float] | None = None) -> None:
        """An epoch was done."""
        self.measure()
        total, count = self._losses
        self._losses = 0.0, 0
        found = {} if self._evaluate is None else self._evaluate(forward)
        self.metrics = {**found, **(metrics or {})}
        seen = {**self.metrics, **({"train_loss": total / count} if count else {})}
        self._tell(Epoch(epoch, step, self.metrics))
        monitor = self.plan.monitor if self.plan.monitor in seen else "train_loss"
        value = seen.get(monitor, math.nan)
        self._is_best = value < self._best
        if self._is_best:
            self._best, self._best_name, self._waited = value, checkpoint_name(epoch, monitor, value), 0
        else:
            self._waited += 1
        if self._options.patience is not None and self._waited >= self._options.patience:
            self.should_stop = True
        if self._checkpoints is not None:
            self._save_last()
            self._keep_best()

    def end(self) -> None:
        """Training is over, in whatever way."""
        for listener in self._listeners:
            listener.on_end()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know of what went before."""
        return {
            "best": self._best,
            "best_name": self._best_name,
            "is_best": self._is_best,
            "waited": self._waited,
            "losses": list(self._losses),
            "initial": dict(self.initial),
            "metrics": dict(self.metrics),
            **{name: remembered.state_dict() for name, remembered in self._remembered.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state."""
        self._best, self._best_name, self._is_best = state["best"], state["best_name"], state["is_best"]
        self._waited, self._losses = state["waited"], (state["losses"][0], state["losses"][1])
        self.initial, self.metrics = state["initial"], state["metrics"]
        for name, remembered in self._remembered.items():
            remembered.load_state_dict(state[name])

    def _save_last(self) -> None:
        self.measure()
        assert self._checkpoints is not None
        self.save(self._checkpoints.last)

    def _keep_best(self, source: Path | None = None) -> None:
        if self._checkpoints is not None and self._is_best and self._leads:
            self._checkpoints.keep_best(self._best_name, source)

    def _tell(self, epoch: Epoch) -> None:
        for listener in self._listeners:
            listener.on_epoch(epoch)
