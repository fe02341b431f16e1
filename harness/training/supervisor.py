"""What happens between the steps, whichever engine takes them: progress is reported, the model evaluated and saved, training stopped.

Where a loss or a gradient became NaN, the step is named, and the module where it began.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from harness.adapters import Adapter
from harness.batches import Batch
from harness.errors import DivergedError
from harness.models.weights import not_finite
from harness.properties.calling import mode
from harness.properties.gradient_tracing import first_bad_gradient
from harness.properties.tracing import finite, first_broken, recording
from harness.training import Epoch, Listener, Plan, Step
from harness.training.checkpoints import CheckpointFolder, checkpoint_name

_ADVICE = "try a lower `learning_rate`, a larger `warmup_ratio`, or a `max_grad_norm`"


def diverged(what: str, step: int, epoch: int, culprit: str, kept: Path | None, spared: bool) -> DivergedError:
    """The error that stops a training.

    Args:
        what: ``loss`` or ``gradient``.
        step: The optimizer step.
        epoch: Counted from 0.
        culprit: Where it began, as a phrase; may be empty.
        kept: The last good checkpoint.
        spared: Whether the step was not taken.
    """
    good = f"the last good checkpoint is {kept}" if kept is not None and kept.is_file() else "no checkpoint was written yet"
    where = f", {culprit}" if culprit else ""
    how = "training stopped before the weights were updated" if spared else "training stopped"
    return DivergedError(f"the {what} became NaN or infinite at step {step} (epoch {epoch}){where}; {how}: {good}; {_ADVICE}")


def find_culprit(model: nn.Module, adapter: Adapter, batch: Batch, forward: AbstractContextManager[Any]) -> str:
    """Runs the batch once more, under the random state of the caller, and says where the first NaN or infinity appears.

    Returns:
        A phrase such as ``first seen in `blocks.1.attn```; empty where the batch is sound now.
    """
    poisoned = not_finite(dict(model.state_dict()))
    if poisoned:
        return f"because `{poisoned[0]}` holds NaN or infinity"
    bad_fields = [name for name, field in batch.items() if field.is_floating_point() and not bool(field.isfinite().all())]
    if bad_fields:
        return f"because `{bad_fields[0]}` of the batch holds NaN or infinity"
    with mode(model, True), forward:
        with torch.no_grad(), recording(model) as calls:
            loss = adapter.loss_of_call(model, batch)
        module = first_broken(calls, lambda tensor: not finite(tensor))
        if module:
            return f"first seen in `{module}`"
        if not bool(adapter.weight(batch)):
            return "because the batch has no label but -100"
        if not bool(loss.isfinite()):
            return "in the loss itself: every module's output is finite"

        def backward() -> None:
            torch.autograd.grad(
                adapter.loss_of_call(model, batch),
                [p for p in model.parameters() if p.requires_grad],
                allow_unused=True,
            )

        module = first_bad_gradient(model, backward)
    return f"first seen in the gradient of `{module}`" if module else ""


Forward = Callable[[], AbstractContextManager[Any]]
"""Makes the context that each forward runs in, such as autocast."""

Evaluate = Callable[[Forward], Mapping[str, float]]
"""Evaluates the model that is being trained."""


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
        was_over: Whether it had ended so before it was resumed.
        has_started: Whether ``start`` was called.
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
        self.should_stop = self.was_over = self.has_started = False
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

    @property
    def _is_out_of_patience(self) -> bool:
        return self._options.patience is not None and self._waited >= self._options.patience

    def start(self, forward: Forward) -> None:
        """Training begins, or resumes after a state was loaded."""
        self.has_started = True
        self._keep_best(self._options.resumed)  # in case the run was killed between the two files
        self.should_stop = self.was_over = self._is_out_of_patience  # the run may have been killed after it had decided to stop
        for listener in self._listeners:
            listener.on_start(self.plan)
        if self._evaluate is not None and self.plan.start and (self.was_over or self.plan.start >= self.plan.steps):
            self._evaluate(forward)  # nothing is trained any more, and the scores of each row are in no checkpoint
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
        every = self._options.checkpoint_every
        # At the end of an epoch it is written once the epoch is evaluated: a run resumed from there would leave that out.
        if self._checkpoints is not None and every and step % every == 0 and not self.plan.ends_epoch(step):
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
        if self._is_out_of_patience:
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
            if name in state:  # an earlier version kept less
                remembered.load_state_dict(state[name])

    def _save_last(self) -> None:
        self.measure()
        assert self._checkpoints is not None
        for listener in self._listeners:
            listener.on_checkpoint()
        self.save(self._checkpoints.last)

    def _keep_best(self, source: Path | None = None) -> None:
        if self._checkpoints is not None and self._is_best and self._leads:
            self._checkpoints.keep_best(self._best_name, source)

    def _tell(self, epoch: Epoch) -> None:
        for listener in self._listeners:
            listener.on_epoch(epoch)
