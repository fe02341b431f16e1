"""Training under Lightning's ``Trainer``, on one device or many."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from harness.batches import Batch
from harness.compat import lightning_of, read_loader_states
from harness.errors import CheckpointError, TrainingError, UserError
from harness.training.checkpoints import STATE_KEY, check_fits, read_checkpoint, write_checkpoint
from harness.training.engines import Job, OnGradients, is_lightning_module, overrides, seed_batch
from harness.training.engines.batch_formats import rows_of
from harness.training.optimisation import (
    Objective,
    checking_configuration,
    clip_gradients,
    follow_config,
    make_optimizer,
    make_schedule,
    rate_of,
)
from harness.training.supervisor import diverged, find_culprit

try:
    import lightning.pytorch as pl
except ImportError:
    import pytorch_lightning as pl  # type: ignore[no-redef]


class TaskModule(pl.LightningModule):
    """A model of a task as a LightningModule: the task's loss, and the config's optimizer and schedule.

    Args:
        job: What to train.
    """

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.model = job.model
        self._job = job
        self.objective: Objective | None = None
        self.loss: Tensor | None = None
        self.examples = 0
        self.norm: Tensor | None = None
        self.after_gradients: Callable[[Optimizer], None] = lambda optimizer: None
        self.guard: Callable[[], None] = lambda: None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The batch's share of the loss."""
        assert self.objective is not None
        return self.objective.loss(self.model, batch)

    def configure_optimizers(self) -> Any:
        """The config's."""
        optimizer = make_optimizer(self.model, self._job.config)
        schedule = make_schedule(optimizer, self._job.config, self._job.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Optimizer, *_limits: Any, **_more: Any) -> None:
        """Puts the gradients to scale, measures and clips them."""
        assert self.objective is not None
        total = self.objective.finish(self.model.parameters())
        self.loss, self.examples = total.loss, total.examples
        self.after_gradients(optimizer)
        sharded: Any = self.trainer.strategy.model
        if self._job.compute.strategy == "fsdp":
            self.norm = sharded.clip_grad_norm_(self._job.config.max_grad_norm or float("inf"))
        else:
            self.norm = clip_gradients(self.model, self._job.config.max_grad_norm)
        self.guard()


class Bridge(pl.callbacks.Checkpoint):
    """Tells the supervisor what Lightning does, and Lightning what the supervisor decides.

    As a ``Checkpoint`` it is called after all other callbacks.

    Args:
        job: What is trained.
        on_gradients: Looks at the gradients of each step before they are clipped.
    """

    def __init__(self, job: Job, on_gradients: OnGradients | None = None) -> None:
        self._job = job
        self._on_gradients = on_gradients
        self._step = 0
        self._running = 0
        self._taken = False
        self._rate = 0.0
        self._norm: Tensor | None = None
        self._loss: Tensor | None = None
        self._batch: Any = None
        self._rows = 0
        self._started = 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """The processes are there: which one this is, and how sums are made."""
        job = self._job
        if job.prepare is not None:
            job.prepare(trainer.global_rank)
        if isinstance(pl_module, TaskModule):
            world = trainer.world_size
            reduce = (lambda sums: torch.distributed.all_reduce(sums)) if world > 1 else None
            pl_module.objective = Objective(job.adapter, job.task, job.config.accumulate_grad_batches, world, reduce)
            if self._on_gradients is not None:
                look = self._on_gradients
                pl_module.after_gradients = lambda optimizer: look(job.model, [optimizer])
            pl_module.guard = lambda: self._guard(trainer, pl_module.norm, pl_module.loss)
        job.connect_supervisor(trainer.save_checkpoint)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Weights and states are in place."""
        # Where the module asked for ``estimated_stepping_batches``, Lightning has set up the data before it knew how far they were read.
        read_loader_states(trainer)
        if self._job.resume is not None and isinstance(pl_module, TaskModule) and self._job.compute.strategy != "fsdp":
            schedule: Any = trainer.lr_scheduler_configs[0].scheduler
            follow_config(trainer.optimizers[0], schedule, self._job.model, self._job.config)
        self._job.supervisor.start(trainer.precision_plugin.forward_context)
        if self._job.supervisor.should_stop:
            trainer.should_stop = True
        self._started = time.perf_counter()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Puts the random state where the run is."""
        self._batch, self._running = batch, 0
        seed_batch(self._job.seed, trainer.current_epoch, batch_idx, trainer.global_rank + self._job.rank)

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer) -> None:
        """The gradients are there."""
        self._taken = True
        self._rate = rate_of(optimizer.param_groups[0])
        if not isinstance(pl_module, TaskModule):
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            self._norm = torch.nn.utils.get_total_norm(gradients) if gradients else None
            if self._on_gradients is not None:
                self._on_gradients(pl_module, [optimizer])
            self._guard(trainer, self._norm, None)

    def _guard(self, trainer: pl.Trainer, norm: Tensor | None, loss: Tensor | None) -> None:
        """Stops before a step that would poison the weights."""
        if not (self._job.guards and self._job.is_watched):
            return
        sound = (norm is None or bool(norm.isfinite())) and (loss is None or bool(loss.isfinite()))
        if sound:
            return
        job = self._job
        index = trainer.fit_loop.batch_idx
        seed_batch(job.seed, trainer.current_epoch, index, trainer.global_rank + job.rank)
        model, batch, culprit = job.model, self._batch, ""
        if isinstance(batch, dict):
            with suppress(UserError, RuntimeError):  # looking into a broken model may raise; that it is broken stands
                culprit = find_culprit(model, job.adapter, batch, trainer.precision_plugin.forward_context())
        what = "gradient" if loss is not None and bool(loss.isfinite()) else "loss"
        raise diverged(what, self._step + 1, trainer.current_epoch, culprit, job.supervisor.last_checkpoint, spared=True)

    @contextmanager
    def behind(self, module: pl.LightningModule) -> Iterator[None]:
        """Hears of the end of a batch after the module's own hook: a checkpoint must hold what that hook has changed.

        Lightning calls callbacks first, those of the kind ``Checkpoint`` included.
        """
        own = module.on_train_batch_end

        def last(outputs: Any, batch: Any, batch_idx: int) -> None:
            own(outputs, batch, batch_idx)
            self._batch_done(module.trainer, module, outputs, batch)

        module.on_train_batch_end = last  # type: ignore[method-assign]
        try:
            yield
        finally:
            del module.on_train_batch_end

    @contextmanager
    def hearing(self, trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[None]:
        """Hears of the optimizer steps that manual optimisation takes past Lightning, such as those of an optimizer inside another one.

        Lightning gives the optimizers that it steps a closure, so that a step without one is not its own.
        """
        if module.automatic_optimization:
            yield
            return

        def enter(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            has_closure = any(callable(argument) for argument in (*args, kwargs.get("closure")))
            if not self._running and not has_closure:
                self.on_before_optimizer_step(trainer, module, optimizer)
            self._running += 1

        def leave(*_call: Any) -> None:
            self._running -= 1

        with register_optimizer_step_pre_hook(enter), register_optimizer_step_post_hook(leave):
            yield

    def _batch_done(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any) -> None:
        """A batch was done, and perhaps an optimizer step."""
        self._rows += rows_of(self._job.task, batch)
        share: Any = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(share, Tensor):  # Lightning has divided it by the batches a step
            self._loss = share.detach() if self._loss is None else self._loss + share.detach()
        if not self._taken:
            return
        self._taken, self._step = False, self._step + 1
        now = time.perf_counter()
        loss, examples, norm = self._loss, self._rows * trainer.world_size, self._norm
        if isinstance(pl_module, TaskModule):
            loss, examples, norm = pl_module.loss, pl_module.examples, pl_module.norm
        self._rows, self._loss = 0, None
        seconds, self._started = now - self._started, now
        self._job.supervisor.step_done(self._step, trainer.current_epoch, loss, self._rate, norm, examples, seconds)
        trainer.should_stop = trainer.should_stop or self._job.supervisor.should_stop

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """An epoch was done."""
        if self._job.supervisor.should_stop and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return
        own = {name: float(value) for name, value in trainer.callback_metrics.items() if value.numel() == 1}
        self._job.supervisor.epoch_done(trainer.current_epoch, self._step, trainer.precision_plugin.forward_context, own)
        trainer.should_stop = trainer.should_stop or self._job.supervisor.should_stop
        self._started = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {"step": self._step, STATE_KEY: self._job.supervisor.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from there."""
        self._step = state_dict["step"]
        self._job.supervisor.load_state_dict(state_dict[STATE_KEY])


class WholeFiles(pl.plugins.TorchCheckpointIO):
    """Reads and writes checkpoints as the plain loop does: aside and renamed, and without running code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes a checkpoint."""
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """Reads a checkpoint."""
        return read_checkpoint(Path(path), map_location or "cpu")


class LightningEngine:
    """Takes the steps of one job under a ``Trainer``.

    Args:
        job: What to train.
        on_gradients: Looks at the gradients of each step before they are clipped.
        options: Further arguments of the ``Trainer``.
    """

    def __init__(self, job: Job, on_gradients: OnGradients | None = None, **options: Any) -> None:
        self.job = job
        self.is_own = is_lightning_module(job.model)
        self.package = lightning_of(job.model) if self.is_own else pl
        if int(self.package.__version__.partition(".")[0]) < 2:
            raise TrainingError(
                f"{self.package.__name__} {self.package.__version__} is installed, and training needs 2.0 or later: "
                "pip install -U pytorch-lightning"
            )
        self.module: pl.LightningModule = job.model if self.is_own else TaskModule(job)  # type: ignore[assignment]
        self.bridge = _of_package(Bridge, self.package.callbacks.Checkpoint)(job, on_gradients)
        if job.config.compile_mode:
            nn.Module.compile(job.model, mode=job.config.compile_mode)  # the class may define its own `compile`
        with quiet():
            self.trainer = self.package.Trainer(**{**self._options(), **options})

    def fit(self) -> None:
        """Trains to the end, or until the supervisor stops it."""
        job = self.job
        if job.resume is not None:
            content = read_checkpoint(job.resume)
            if content.get("engine") == "plain":
                raise CheckpointError(
                    f"`resume_from_checkpoint`: {job.resume} was written by the plain loop; resume it with run_training(engine='plain')"
                )
            check_fits(content, self.module, job.resume)
        self.module.train()
        checked = checking_configuration(self.module) if self.is_own else nullcontext()
        own, hearing = without_own_data(self.module), self.bridge.hearing(self.trainer, self.module)
        with quiet(), checked, own, self.bridge.behind(self.module), hearing:
            self.trainer.fit(
                self.module,
                train_dataloaders=job.batches,
                val_dataloaders=job.held_out if self._validates else None,
                ckpt_path=job.resume,
            )
        if not job.supervisor.has_started:  # Lightning calls no hook where a resumed run has no epoch left
            job.supervisor.start(self.trainer.precision_plugin.forward_context)

    @property
    def _validates(self) -> bool:
        return self.is_own and self.job.held_out is not None and overrides(self.module, "validation_step")

    def _options(self) -> dict[str, Any]:
        job = self.job
        manual = self.is_own and not self.module.automatic_optimization
        clip = job.config.max_grad_norm if self.is_own and not manual else None
        return {
            "accelerator": job.compute.accelerator,
            "devices": list(job.compute.devices) if isinstance(job.compute.devices, tuple) else job.compute.devices,
            "num_nodes": job.compute.num_nodes,
            "strategy": job.compute.strategy,
            "precision": job.compute.precision,
            "max_epochs": job.epochs,
            "accumulate_grad_batches": 1 if manual else job.config.accumulate_grad_batches,
            "gradient_clip_val": clip or None,
            "deterministic": job.config.deterministic or None,
            "callbacks": [self.bridge],
            "plugins": [_of_package(WholeFiles, self.package.plugins.TorchCheckpointIO)()],
            "limit_val_batches": None if self._validates else 0,
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,
            "logger": False,
            "enable_checkpointing": True,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "log_every_n_steps": 1_000_000,
        }


def _of_package(cls: type[Any], base: type) -> type[Any]:
    """A class of this file as a kind of what the package of the module knows, which may be that of the other name."""
    return cls if issubclass(cls, base) else type(cls.__name__, (cls, base), {})


@contextmanager
def without_own_data(module: pl.LightningModule) -> Iterator[None]:
    """Keeps a module from data of its own: the job has batches, and what the module would download or open may not be there.

    Its ``setup`` may make more than data, so it is called. Where the module has its own dataloaders and it raises, it was for those.
    """
    hooks: dict[str, Callable[..., None]] = {}
    if overrides(module, "prepare_data"):
        hooks["prepare_data"] = lambda: None
    if overrides(module, "setup") and overrides(module, "train_dataloader"):
        own = module.setup

        def set_up(stage: str) -> None:
            with suppress(Exception):
                own(stage)

        hooks["setup"] = set_up
    for name, hook in hooks.items():
        setattr(module, name, hook)
    try:
        yield
    finally:
        for name in hooks:
            delattr(module, name)


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps Lightning's advice to itself; what matters is said by this project."""
    names = ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(pytorch_)?lightning(_fabric)?\..*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
