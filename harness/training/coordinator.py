"""One training from its config to its results: data, engine, evaluation, checkpoints, records."""

from __future__ import annotations

import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from harness.adapters import Adapter
from harness.config import EvalConfig, TrainingConfig
from harness.data.data_reference import Datasets, brief_id, content_hash, dataset_id, open_datasets
from harness.data.dataset import Dataset
from harness.data.loader import Loader, make_loader
from harness.errors import MissingPackageError, TrainingError, UserError
from harness.properties.subject import Subject
from harness.runtime import threads_for
from harness.tasks import TaskSpec
from harness.training import FINAL, Plan, RunLog
from harness.training.checkpoints import SETTINGS, CheckpointFolder, RunSettings, file_name, read_checkpoint
from harness.training.compute import Compute, Machine, choose_compute, leads
from harness.training.dashboard import write_dashboard
from harness.training.engines import Batches, Engine, Job, is_lightning_module, steps_of_epoch
from harness.training.engines.batch_formats import FormattedBatches
from harness.training.history import History
from harness.training.progress import Progress
from harness.training.supervisor import Forward, Supervisor, SupervisorOptions
from harness.training.trial import Trial
from harness.user_code import is_users_file, raised

if TYPE_CHECKING:
    from harness.experiments.run import Run
if TYPE_CHECKING:
    from harness.evaluation.evaluation import Evaluation


_OF_OUR_OPTIMIZER = ("learning_rate", "weight_decay", "warmup_ratio")

PREFIX = "val_"
"""Prefix of the names of metrics during training."""


@dataclass
class TrainingCoordinator:
    """Trains a model in place and says what came of it; what it is given is what ``run_training`` takes.

    Attributes:
        run: Where metrics are logged; ``None`` for nowhere. Only the leading process has one.
    """

    model: nn.Module
    adapter: Adapter
    config: TrainingConfig
    task: TaskSpec
    eval_config: EvalConfig | None = None
    train_config: EvalConfig | None = None
    folder: Path = field(default_factory=Path)
    name: str = "training"
    seed: int = 0
    run: Run | None = None
    engine: str = "auto"
    progress: bool = True

    @cached_property
    def machine(self) -> Machine:
        """What is here."""
        return Machine.here()

    @cached_property
    def compute(self) -> Compute:
        """What it runs on.

        Raises:
            TrainingError: The machine lacks what the config asks for.
        """
        machine = self.machine if self.engine != "plain" else replace(self.machine, lightning=False)
        return choose_compute(self.config, machine)

    @cached_property
    def data(self) -> Datasets:
        """What it learns from, and is judged on.

        Raises:
            DataError: Something is missing, unreadable, or does not fit the task.
        """
        return open_datasets(self.task, self.train_config, self.eval_config, self.folder)

    @cached_property
    def checkpoints(self) -> CheckpointFolder:
        """Where checkpoints go: the config's folder, or one of the run's name, whatever characters that has."""
        own = file_name(self.name)
        named = self.config.checkpoint_dir
        return CheckpointFolder((self.folder / (Path(named).expanduser() if named else Path("checkpoints") / own)).resolve())

    def train(self) -> dict[str, Any]:
        """Trains to the end.

        Returns:
            ``eval_summary`` of the final weights and ``initial_eval``, by metric; ``history``; the paths ``best_checkpoint``,
            ``last_checkpoint`` and ``dashboard``; ``steps``, ``epochs`` and ``seconds``; ``strategy``, ``devices`` and ``precision``;
            ``notes``, a sentence each.

        Raises:
            UserError: What keeps it from being trained, in one line.
        """
        started = time.perf_counter()
        notes = [*self.compute.notes, *self.data.notes, *self._unused_keys()]
        resume = self._find_resume(notes)
        history, progress = History(), Progress(quiet=not (self.progress and leads()))
        settings = self._settings()
        if resume is not None:
            notes += settings.differences(read_checkpoint(resume), resume)
        with threads_for(self.model):
            learnt, judged = self._loaders()
            evaluator = Evaluator(self.model, self.adapter, self.task, judged, progress.evaluating)
            log = RunLog(self.run) if self.run is not None else None
            listeners = [history, progress, *([log] if log is not None else [])]
            supervisor = Supervisor(
                self._plan(learnt, resume),
                listeners,
                evaluator,
                self.checkpoints,
                SupervisorOptions(self.config.checkpoint_every_n_steps, self.config.early_stopping_patience, resumed=resume),
                leads=leads(),
                remembered={"history": history, SETTINGS: settings, **({"run": log} if log is not None else {})},
            )
            self._make_room(resume, notes)
            for note in notes if leads() else ():
                warnings.warn(note, UserWarning, stacklevel=5)  # where run_training was called
            try:
                self._fit(self._job(learnt, judged, supervisor, resume))
            finally:
                supervisor.end()
        if supervisor.was_over:
            notes.append(
                f"`resume_from_checkpoint`: early stopping had ended the run that is resumed, so nothing was trained; with an "
                f"`early_stopping_patience` above {self.config.early_stopping_patience} it continues"
            )
        if leads():
            self._log(evaluator, supervisor)
        return {
            "eval_summary": _bare(supervisor.metrics),
            "initial_eval": _bare(supervisor.initial),
            "best_checkpoint": self.checkpoints.best,
            "last_checkpoint": self.checkpoints.last,
            "dashboard": self._dashboard(history, supervisor.plan) if leads() else {},
            "history": history,
            "steps": history.steps[-1] if history.steps else 0,
            "epochs": sum(1 for epoch in history.epochs if epoch.epoch >= 0),
            "seconds": time.perf_counter() - started,
            "strategy": self.compute.strategy,
            "devices": self.compute.world_size,
            "precision": self.compute.precision,
            "notes": notes,
        }

    def _unused_keys(self) -> Iterable[str]:
        if is_lightning_module(self.model):
            for key in _OF_OUR_OPTIMIZER:
                if key in self.config.model_fields_set:
                    yield f"`{key}` has no effect: {type(self.model).__name__} configures its own optimizers"

    def _settings(self) -> RunSettings:
        """What checkpoints keep of what the run is trained with."""
        config, data, keys = self.config, self.data, self.train_config or EvalConfig()
        own = is_lightning_module(self.model)
        values = {
            **({} if own else {key: getattr(config, key) for key in _OF_OUR_OPTIMIZER}),
            "max_grad_norm": config.max_grad_norm,
            "batch_size": keys.batch_size or config.batch_size,
            "accumulate_grad_batches": config.accumulate_grad_batches,
            "precision": self.compute.precision,
            "seed": self.seed,
            "train": {"name": brief_id(data.train), "content": content_hash(data.train)},
            "eval": {"name": brief_id(data.held_out), "content": content_hash(data.held_out)},
        }
        return RunSettings(values)

    def _find_resume(self, notes: list[str]) -> Path | None:
        """The checkpoint that training is resumed from."""
        asked = self.config.resume_from_checkpoint
        if asked == "last" and not self.checkpoints.last.is_file():
            notes.append(
                f"`resume_from_checkpoint`: {self.checkpoints.folder} has no checkpoint yet, so training starts from scratch"
            )
            return None
        if asked is None or asked == "last":
            return self.checkpoints.last if asked else None
        return (self.folder / Path(asked).expanduser()).resolve()

    def _make_room(self, resume: Path | None, notes: list[str]) -> None:
        """Moves the checkpoints of another run aside: they would be overwritten, and the best of them deleted.

        What a killed run left half written is deleted. Called once the checkpoint to resume from was read, so that a wrong path moves nothing.
        """
        if not leads():
            return
        self.checkpoints.drop_unfinished()
        if resume is not None and resume.parent == self.checkpoints.folder:
            return
        aside = self.checkpoints.set_aside()
        if aside is not None:
            notes.append(f"the checkpoints of an earlier run were moved to {aside}")

    def _loaders(self) -> tuple[Loader, Loader]:
        def loader(dataset: Dataset, config: EvalConfig | None, shuffle: bool) -> Loader:
            keys = config or EvalConfig()
            return make_loader(
                dataset,
                self.task,
                keys.batch_size or self.config.batch_size,
                seed=self.seed,
                share=(0, self.compute.world_size),  # each process says its rank later
                num_workers=keys.num_workers,
                shuffle=shuffle,
                pin_memory=self.compute.accelerator == "cuda",
            )

        return loader(self.data.train, self.train_config, True), loader(self.data.held_out, self.eval_config, False)

    def _plan(self, batches: Batches, resume: Path | None) -> Plan:
        start = 0
        if resume is not None:
            content = read_checkpoint(resume)
            start = content.get("callbacks", {}).get("Bridge", {}).get("step", content.get("global_step", 0))
        each = steps_of_epoch(len(batches), self.config.accumulate_grad_batches)
        return Plan(self.name, self.config.epochs, self.config.epochs * each, start, f"{PREFIX}loss")

    def _job(self, learnt: Loader, judged: Loader, supervisor: Supervisor, resume: Path | None) -> Job:
        def prepare(rank: int) -> None:
            learnt.order.rank = judged.order.rank = rank

        batches: Batches = learnt
        held_out: Batches | None = None
        if is_lightning_module(self.model):
            form = Trial(Subject(self.model, self.adapter, self.task), self.config).batch_format
            batches, held_out = FormattedBatches(learnt, form), FormattedBatches(judged, form)
        return Job(
            self.model,
            self.adapter,
            self.task,
            self.config,
            self.compute,
            batches,
            self.config.epochs,
            self.seed,
            supervisor,
            resume=resume,
            held_out=held_out,
            prepare=prepare,
        )

    def _fit(self, job: Job) -> None:
        try:
            self._engine(job).fit()
        except UserError:
            raise
        except Exception as error:
            if not any(is_users_file(frame.filename) for frame in traceback.extract_tb(error.__traceback__)):
                raise
            raise TrainingError(f"training stopped: {type(self.model).__name__} raised {raised(error)}") from error

    def _engine(self, job: Job) -> Engine:
        if is_lightning_module(self.model) or self.engine == "lightning" or (self.engine == "auto" and self.machine.lightning):
            try:
                from harness.training.engines.lightning import LightningEngine
            except ImportError as error:
                raise MissingPackageError("run_training(engine='lightning') needs Lightning: pip install lightning") from error
            return LightningEngine(job)
        from harness.training.engines import PlainEngine

        return PlainEngine(job)

    def _log(self, evaluator: Evaluator, supervisor: Supervisor) -> None:
        if self.run is None:
            return
        self.run.log_metrics(
            {f"{FINAL}{name}": value for name, value in _bare(supervisor.metrics).items()}, supervisor.plan.steps
        )
        if evaluator.newest is not None:
            judged = dataset_id(self.data.held_out)
            for metric, values in evaluator.newest.scores.items():
                self.run.log_scores(metric, values, judged)

    def _dashboard(self, history: History, plan: Plan) -> dict[str, Path]:
        keys = {key: str(value) for key, value in self.config.model_dump(exclude_none=True).items()}
        facts = {
            "model": type(self.model).__name__,
            "task": self.task.title,
            "train": f"{self.data.train.origin.name} {self.data.train.origin.part}",
            "eval": f"{self.data.held_out.origin.name} {self.data.held_out.origin.part}",
            "seed": str(self.seed),
        }
        try:
            return write_dashboard(history, plan, self.checkpoints.folder, {**facts, **keys})
        except OSError as error:  # a full disk must not cost a finished training its result
            warnings.warn(f"the dashboard cannot be written: {error.strerror or error}", UserWarning, stacklevel=2)
            return {}


def _bare(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics of an evaluation, without the prefix that they have during training."""
    return {name.removeprefix(PREFIX): value for name, value in metrics.items() if name.startswith(PREFIX)}


class Evaluator:
    """Judges a model that is being trained, on held-out data.

    Args:
        model: The model.
        adapter: How it is called.
        task: What it is for.
        loader: The held-out data.
        on_batch: Told how many batches are done, and of how many.

    Attributes:
        newest: What the last evaluation found.
    """

    def __init__(
        self,
        model: nn.Module,
        adapter: Adapter,
        task: TaskSpec,
        loader: Loader,
        on_batch: Callable[[int, int], None] | None = None,
    ) -> None:
        self._model = model
        self._adapter = adapter
        self._task = task
        self._loader = loader
        self._on_batch = on_batch
        self.newest: Evaluation | None = None

    def __call__(self, forward: Forward) -> dict[str, float]:
        """The metrics, by names such as ``val_loss``."""
        from harness.evaluation.evaluation import evaluate

        device = next((parameter.device for parameter in self._model.parameters()), None)
        self.newest = evaluate(
            self._model, self._adapter, self._task, self._loader, device=device, forward=forward, on_batch=self._on_batch
        )
        return {f"{PREFIX}{name}": value for name, value in self.newest.summary.items()}
