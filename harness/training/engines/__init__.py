"""A training, ready for an engine, and the random state of each of its batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer

from harness.adapters import Adapter
from harness.config import TrainingConfig
from harness.models.weights import not_finite
from harness.runtime import seed_everything
from harness.tasks import TaskSpec
from harness.training.compute import Compute
from harness.training.events import Step
from harness.training.supervisor import Supervisor, diverged

_DELAY = 10
"""Steps whose losses are read at once from a GPU."""


OnGradients = Callable[[nn.Module, Sequence[Optimizer]], None]
"""Called before each optimizer step, with the model and its optimizers; the gradients are those of the whole step, not yet clipped."""


class Batches(Protocol):
    """The batches of every epoch, from where they were left; ``harness.data.loader.Loader`` is one."""

    def __iter__(self) -> Iterator[Any]:
        """The batches of the epoch that are left."""

    def __len__(self) -> int:
        """Batches of a whole epoch, for one process."""

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next iteration goes through."""

    def state_dict(self) -> dict[str, Any]:
        """How far they got."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from there."""


@dataclass(frozen=True)
class Job:
    """A training, ready for an engine.

    Attributes:
        model: The model, which is trained in place; a ``LightningModule`` brings its own step and optimizers.
        adapter: How it is called, and its loss.
        task: What it is for.
        config: Rate, clipping, accumulation, compilation.
        compute: Where it runs.
        batches: What it learns from; rank 0's, where several processes train.
        epochs: How often it goes through them.
        seed: Of the random state of every batch.
        supervisor: What happens between the steps.
        resume: The checkpoint to resume from.
        held_out: What a LightningModule's own ``validation_step`` is given; ``None`` for nothing.
        rank: Whose random numbers are drawn, where one process stands in for another; added to its own number.
        prepare: Called in each process once its rank is known, with the rank; ``None`` for nothing.
    """

    model: nn.Module
    adapter: Adapter
    task: TaskSpec
    config: TrainingConfig
    compute: Compute
    batches: Batches
    epochs: int
    seed: int
    supervisor: Supervisor
    resume: Path | None = None
    held_out: Batches | None = None
    prepare: Callable[[int], None] | None = None
    rank: int = 0

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.epochs * steps_of_epoch(len(self.batches), self.config.accumulate_grad_batches)

    @property
    def guards(self) -> bool:
        """Whether a gradient that is not finite is an error: under float16 the scaler skips such a step and continues."""
        return self.compute.precision != "16-mixed"

    @property
    def is_watched(self) -> bool:
        """Whether each step is looked at before it is taken: on a GPU that would wait for it, so it is looked at later."""
        return self.compute.accelerator == "cpu"

    def connect_supervisor(self, save: Callable[[Path], None]) -> None:
        """Tells the supervisor how this job writes checkpoints and when it reads losses."""
        self.supervisor.save = save
        self.supervisor.delay = 1 if self.is_watched else _DELAY
        if self.guards:
            self.supervisor.on_bad_step = self._stop

    def _stop(self, step: Step) -> None:
        poisoned = not_finite(dict(self.model.state_dict()))
        culprit = f"and `{poisoned[0]}` now holds NaN or infinity" if poisoned else ""
        what = "gradient" if math.isfinite(step.loss) else "loss"
        raise diverged(what, step.step, step.epoch, culprit, self.supervisor.last_checkpoint, spared=False)


class Engine(Protocol):
    """Takes the steps of a job."""

    def fit(self) -> None:
        """Trains to the end, or until the supervisor stops it."""


def steps_of_epoch(batches: int, accumulate: int) -> int:
    """Optimizer steps of an epoch; the last one may have fewer batches."""
    return math.ceil(batches / accumulate)


def is_lightning_module(model: nn.Module) -> bool:
    """Whether a model is a LightningModule, without importing Lightning."""
    return any(
        cls.__name__ == "LightningModule" and cls.__module__.startswith(("lightning.", "pytorch_lightning."))
        for cls in type(model).__mro__
    )


def seed_batch(seed: int, epoch: int, batch: int, rank: int = 0) -> None:
    """Seeds torch, Python and NumPy for one batch of a run."""
    digest = blake2b(f"{seed}:{epoch}:{batch}:{rank}".encode(), digest_size=4)
    seed_everything(int.from_bytes(digest.digest(), "little"))
