"""Short trainings of a model under test, by the engines that real ones use."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from harness.batches import Batch
from harness.config import TrainingConfig
from harness.properties.subject import Subject
from harness.training.checkpoints import CheckpointFolder
from harness.training.compute import Compute
from harness.training.conductor import Conductor
from harness.training.engines.forms import Form, as_dict, find_form
from harness.training.engines.job import Job, OnGradients, is_lightning_module
from harness.training.records import Listener, Plan, Step


class FixedBatches:
    """A list of batches as an epoch; a position in it can be saved."""

    def __init__(self, batches: Sequence[Any]) -> None:
        self._batches = batches
        self._given = 0
        self._start = 0

    def __iter__(self) -> Iterator[Any]:
        self._given, self._start = self._start, 0
        for batch in self._batches[self._given :]:
            self._given += 1
            yield batch

    def __len__(self) -> int:
        return len(self._batches)

    def set_epoch(self, epoch: int) -> None:
        """Every epoch is the same."""

    def state_dict(self) -> dict[str, Any]:
        """How many were given out."""
        return {"batch": self._given}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self._start = self._given = state["batch"]


@dataclass
class Training:
    """What a short training did.

    Attributes:
        model: The trained copy, in train mode.
        optimizers: Its optimizers.
        steps: What was measured at each step.
        folder: Where its checkpoint went.
    """

    model: nn.Module
    optimizers: list[Optimizer]
    steps: list[Step]
    folder: Path | None = None

    @property
    def losses(self) -> list[float]:
        """The loss of each step, before it was taken."""
        return [step.loss for step in self.steps]


@dataclass
class Trial:
    """Takes short trainings of a subject, each on a fresh copy of its model, by the model's own optimizer and training step.

    Attributes:
        subject: The model under test.
        config: The training keys.
        seconds: What one check may take; what would need longer is left out, with the reason.
    """

    subject: Subject
    config: TrainingConfig = field(default_factory=TrainingConfig)
    seconds: float = math.inf

    @property
    def is_own(self) -> bool:
        """Whether the model is a LightningModule, with a training step and optimizers of its own."""
        return is_lightning_module(self.subject.model)

    @cached_property
    def form(self) -> Form:
        """How the model's own training step takes batches.

        Raises:
            TrainingError: It takes neither dicts nor tuples.
        """
        if not self.is_own:
            return as_dict
        return find_form(
            self.subject.model, self.subject.adapter, lambda form: self._run([form(self.subject.batch())], form=as_dict)
        )

    def train(
        self,
        batches: Sequence[Batch],
        *,
        epochs: int = 1,
        limit: int | None = None,
        seed: int = 0,
        accumulate: int = 1,
        rate: float | None = None,
        clip: bool = True,
        prepare: Callable[[nn.Module], None] | None = None,
        on_gradients: OnGradients | None = None,
        folder: Path | None = None,
        resume: Path | None = None,
        model: nn.Module | None = None,
    ) -> Training:
        """Trains a fresh copy.

        Args:
            batches: The batches of an epoch, in order.
            epochs: How often they are gone through.
            limit: Optimizer steps after which training stops.
            seed: Of the random state of every batch.
            accumulate: Batches an optimizer step.
            rate: A learning rate in place of the config's; a LightningModule keeps its own.
            clip: Whether gradients are clipped as the config says.
            prepare: Changes the copy first, such as freezing parameters.
            on_gradients: Looks at the gradients before each step.
            folder: Where a checkpoint is written at the end (``last.ckpt``).
            resume: A checkpoint to go on from.
            model: Trained in place of a fresh copy.

        Raises:
            TrainingError: The training cannot be taken, or diverged.
        """
        return self._run(
            batches, epochs, limit, seed, accumulate, rate, clip, prepare, on_gradients, folder, resume, model, self.form
        )

    def _run(
        self,
        batches: Sequence[Any],
        epochs: int = 1,
        limit: int | None = None,
        seed: int = 0,
        accumulate: int = 1,
        rate: float | None = None,
        clip: bool = True,
        prepare: Callable[[nn.Module], None] | None = None,
        on_gradients: OnGradients | None = None,
        folder: Path | None = None,
        resume: Path | None = None,
        model: nn.Module | None = None,
        form: Form = as_dict,
    ) -> Training:
        subject = self.subject
        model = subject.fresh() if model is None else model
        if prepare is not None:
            prepare(model)
        keys = {"accumulate_grad_batches": accumulate, "max_grad_norm": self.config.max_grad_norm if clip else 0.0}
        config = self.config.model_copy(update={**keys, **({"learning_rate": rate} if rate else {}), "compile_mode": None})
        steps = _Steps()
        checkpoints = CheckpointFolder(folder) if folder is not None else None
        conductor = Conductor(Plan("trial", epochs, 0), [steps], None, checkpoints, every=1 if folder else None, limit=limit)
        device = subject.device
        accelerator: Any = device.type if device.type in ("cuda", "mps") else "cpu"
        compute = Compute(accelerator, (device.index or 0,) if accelerator == "cuda" else 1)
        formed = FixedBatches([form(batch) for batch in batches])
        job = Job(model, subject.adapter, subject.task, config, compute, formed, epochs, seed, conductor, resume)
        return Training(model, _fit(job, on_gradients), steps.taken, folder)


class _Steps(Listener):
    def __init__(self) -> None:
        self.taken: list[Step] = []

    def on_step(self, step: Step) -> None:
        self.taken.append(step)


def _fit(job: Job, on_gradients: OnGradients | None) -> list[Optimizer]:
    """Runs the engine that fits the model; returns the optimizers."""
    if is_lightning_module(job.model):
        from harness.training.engines.lightning import LightningEngine

        engine = LightningEngine(job, on_gradients=on_gradients)
        engine.fit()
        return list(engine.trainer.optimizers)
    from harness.training.engines.plain import PlainEngine

    plain = PlainEngine(job, on_gradients=on_gradients)
    plain.fit()
    return [plain.optimizer]


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the gradients by parameter; zeros where there is none."""
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
