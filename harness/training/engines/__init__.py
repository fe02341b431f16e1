"""A training, ready for an engine, with the random state of each of its batches; and the engine that is a plain loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from harness.adapters import Adapter
from harness.batches import Batch, to_device
from harness.compat import lightning_of
from harness.config import TrainingConfig
from harness.errors import CheckpointError, TrainingError
from harness.models.copies import move
from harness.models.weights import not_finite
from harness.runtime import seed_everything
from harness.tasks import TaskSpec
from harness.training import Step
from harness.training.checkpoints import STATE_KEY, check_fits, read_checkpoint, write_checkpoint
from harness.training.compute import Compute
from harness.training.optimisation import Objective, clip_gradients, follow_config, make_optimizer, make_schedule
from harness.training.supervisor import Supervisor, diverged, find_culprit

_DELAY = 10
"""Steps whose losses are read at once from a GPU."""


AT_THE_END = ("configure_callbacks", "on_train_end", "on_fit_end", "on_train_epoch_end")
"""Hooks of Lightning's by which a model may be changed after its last step."""

OnGradients = Callable[[nn.Module, Sequence[Optimizer]], None]
"""Called before each optimizer step, with the model and its optimizers; the gradients are those of the whole step, not yet clipped."""


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the gradients by parameter; zeros where there is none."""
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, saved ones and others."""
    return {name: tensor.detach().clone() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


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


def overrides(model: nn.Module, *hooks: str) -> bool:
    """Whether a LightningModule defines one of Lightning's hooks itself, such as ``validation_step``."""
    is_overridden = lightning_of(model).utilities.model_helpers.is_overridden
    return any(is_overridden(hook, model) for hook in hooks)


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


_DTYPES = {"32": torch.float32, "16": torch.float16, "bf16": torch.bfloat16, "64": torch.float64}


class PlainEngine:
    """Takes the steps of one job, as Lightning would: the weights come out the same to the bit.

    Args:
        job: What to train.
        on_gradients: Looks at the gradients of each step before they are clipped.

    Raises:
        TrainingError: The job needs several processes.
    """

    def __init__(self, job: Job, on_gradients: OnGradients | None = None) -> None:
        self._on_gradients = on_gradients
        if job.compute.world_size > 1:
            raise TrainingError("several processes need Lightning: pip install lightning")
        self.job = job
        kind, _, how = job.compute.precision.partition("-")
        device = job.compute.devices if isinstance(job.compute.devices, tuple) else (0,)
        self._device = (
            torch.device(job.compute.accelerator, device[0])
            if job.compute.accelerator == "cuda"
            else (torch.device(job.compute.accelerator))
        )
        self._autocast = _DTYPES[kind] if how == "mixed" else None
        self._dtype = _DTYPES[kind] if how == "true" and kind != "32" else None
        self._scaler = torch.amp.GradScaler(job.compute.accelerator, enabled=job.compute.precision == "16-mixed")
        self.model = move(job.model, self._device, self._dtype)
        if job.config.compile_mode:
            nn.Module.compile(self.model, mode=job.config.compile_mode)  # the class may define its own `compile`
        self.optimizer = make_optimizer(self.model, job.config)
        self.schedule = make_schedule(self.optimizer, job.config, job.steps)
        self._objective = Objective(job.adapter, job.task, job.config.accumulate_grad_batches)
        self._epoch = 0
        self._batch = 0
        self._step = 0

    def forward(self) -> AbstractContextManager[Any]:
        """The context of a forward: autocast, where the precision is mixed."""
        return torch.autocast(self._device.type, self._autocast) if self._autocast else nullcontext()

    def fit(self) -> None:
        """Trains to the end, or until the supervisor stops it."""
        job = self.job
        job.connect_supervisor(self._save)
        if job.prepare is not None:
            job.prepare(0)
        self.model.train()  # before a state is loaded: a model that changes its weights by the mode was saved in train mode
        if job.resume is not None:
            self._load(job.resume)
        job.supervisor.start(self.forward)
        while self._epoch < job.epochs and not job.supervisor.should_stop:
            self._run_epoch()

    def _run_epoch(self) -> None:
        job, total = self.job, len(self.job.batches)
        job.batches.set_epoch(self._epoch)
        started = time.perf_counter()
        for batch in job.batches:
            self._accumulate(batch)
            self._batch += 1
            if self._batch % job.config.accumulate_grad_batches == 0 or self._batch == total:
                self._take_step(batch, started)
                started = time.perf_counter()
            if job.supervisor.should_stop and self._batch < total:
                return
        self._epoch, self._batch = self._epoch + 1, 0
        job.supervisor.epoch_done(self._epoch - 1, self._step, self.forward)

    def _accumulate(self, batch: Batch) -> None:
        seed_batch(self.job.seed, self._epoch, self._batch, self.job.rank)
        with self.forward():
            loss = self._objective.loss(self.model, to_device(batch, self._device, self._dtype))
        self._scaler.scale(loss / self.job.config.accumulate_grad_batches).backward()

    def _take_step(self, batch: Batch, started: float) -> None:
        self._scaler.unscale_(self.optimizer)
        total = self._objective.finish(self.model.parameters())
        if self._on_gradients is not None:
            self._on_gradients(self.model, [self.optimizer])
        norm = clip_gradients(self.model, self.job.config.max_grad_norm)
        if self.job.guards and self.job.is_watched:
            self._guard(total.loss, norm, batch)
        rate = self.optimizer.param_groups[0]["lr"]
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad()
        self.schedule.step()
        self._step += 1
        seconds = time.perf_counter() - started
        self.job.supervisor.step_done(self._step, self._epoch, total.loss, rate, norm, total.examples, seconds)

    def _guard(self, loss: Tensor, norm: Tensor, batch: Batch) -> None:
        if bool(norm.isfinite()) and bool(loss.isfinite()):
            return
        seed_batch(self.job.seed, self._epoch, self._batch - 1, self.job.rank)
        culprit = find_culprit(self.model, self.job.adapter, to_device(batch, self._device, self._dtype), self.forward())
        what = "gradient" if bool(loss.isfinite()) else "loss"
        raise diverged(what, self._step + 1, self._epoch, culprit, self.job.supervisor.last_checkpoint, spared=True)

    def _save(self, path: Path) -> None:
        content = {
            "engine": "plain",
            "state_dict": {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()},
            "optimizer_states": [self.optimizer.state_dict()],
            "lr_schedulers": [self.schedule.state_dict()],
            "scaler": self._scaler.state_dict(),
            "epoch": self._epoch,
            "batch": self._batch,
            "global_step": self._step,
            "batches": self.job.batches.state_dict(),
            STATE_KEY: self.job.supervisor.state_dict(),
        }
        write_checkpoint(content, path)

    def _load(self, path: Path) -> None:
        content = read_checkpoint(path)
        if content.get("engine") != "plain":
            raise CheckpointError(
                f"`resume_from_checkpoint`: {path} was written by Lightning; install it to resume: pip install lightning"
            )
        check_fits(content, self.model, path)
        self.model.load_state_dict({name.removeprefix("model."): value for name, value in content["state_dict"].items()})
        self.optimizer.load_state_dict(content["optimizer_states"][0])
        self.schedule.load_state_dict(content["lr_schedulers"][0])
        follow_config(self.optimizer, self.schedule, self.model, self.job.config)
        if self._scaler.is_enabled() and content["scaler"]:  # which the precision of the run before may not have needed
            self._scaler.load_state_dict(content["scaler"])
        self._epoch, self._batch, self._step = content["epoch"], content["batch"], content["global_step"]
        if self._batch:
            self.job.batches.load_state_dict(content["batches"])
        self.job.supervisor.load_state_dict(content[STATE_KEY])
