"""Short trainings of a model under test, by the engines that real ones use."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from harness.batches import Batch
from harness.config import SuiteConfig, TrainingConfig
from harness.data.data_reference import Datasets, open_datasets
from harness.data.loader import make_loader
from harness.errors import TrainingError
from harness.properties.subject import Subject
from harness.runtime import processor_seconds, seeded
from harness.training import Listener, Plan, Step
from harness.training.checkpoints import CheckpointFolder
from harness.training.compute import Compute
from harness.training.engines import AT_THE_END, Job, OnGradients, is_lightning_module, overrides, weights_of
from harness.training.engines.batch_formats import BatchFormat, Declared, DrawnBatches, FixedBatches, as_dict, find_batch_format
from harness.training.optimisation import with_labels, with_read_labels, without_clipping
from harness.training.supervisor import Supervisor, SupervisorOptions

MOST_BATCHES = 16
"""Batches in which a training step that accumulates by itself must have taken an optimizer step."""

_WAITS_FOR_VALIDATION = re.compile(r"conditioned on metric .* which is not available|could not find the monitored key")
"""What Lightning says where a callback or a schedule reads the result of a validation that is not there."""

Prepare = Callable[[nn.Module], None]
"""Changes a model before it is trained."""

Until = Callable[[nn.Module, int], bool]
"""Asked after each optimizer step, with the model and the steps taken so far, whether training is to end."""

_seconds_per_step: WeakKeyDictionary[nn.Module, float] = WeakKeyDictionary()


@dataclass(frozen=True)
class Variation:
    """How a training is varied to see how much of its result is noise."""

    prepare: Prepare | None = None
    seed: int = 0

    def apply(self, model: nn.Module) -> None:
        """Changes a model."""
        if self.prepare is not None:
            self.prepare(model)


UNVARIED = Variation()


@dataclass(frozen=True)
class TrialOptions:
    """How a short training is taken.

    Attributes:
        epochs: How often the batches are gone through.
        limit: Optimizer steps after which training stops.
        seed: Of the random state of every batch.
        accumulate: Batches an optimizer step.
        rate: A learning rate in place of the config's; a LightningModule keeps its own.
        clip: Whether gradients are clipped, as the config or the model's own training step says.
        folder: Where a checkpoint is written after every step (``last.ckpt``).
        resume: A checkpoint to resume from.
        processes: How many train together, on CPUs; this is one of them, and the environment says which.
        rank: The process whose random numbers this one draws in its place.
    """

    epochs: int = 1
    limit: int | None = None
    seed: int = 0
    accumulate: int = 1
    rate: float | None = None
    clip: bool = True
    folder: Path | None = None
    resume: Path | None = None
    processes: int = 1
    rank: int = 0


@dataclass
class Training:
    """What a short training did.

    Attributes:
        model: The trained copy, in train mode.
        optimizers: Its optimizers.
        steps: What was measured at each step.
        folder: Where its checkpoint went.
        schedules: The learning rate schedules of a LightningModule, as Lightning describes them.
    """

    model: nn.Module
    optimizers: list[Optimizer]
    steps: list[Step]
    folder: Path | None = None
    schedules: list[Any] = field(default_factory=list)

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
        source: The config that the model came from: names its datasets, and another process builds the model from it. ``None`` for a
            model without one.
        validates: Whether a validation pass follows each epoch, as a callback or schedule reads its result; known with ``batch_format``.
    """

    subject: Subject
    config: TrainingConfig = field(default_factory=TrainingConfig)
    seconds: float = math.inf
    source: SuiteConfig | None = None
    validates: bool = False
    _refused: list[TrainingError] = field(default_factory=list, init=False, repr=False)

    @staticmethod
    def of(subject: Subject, config: TrainingConfig, source: SuiteConfig | None = None) -> Trial:
        """The trial of a subject; labels that follow from its outputs, and that its own loss never reads, are none."""
        trial = Trial(with_read_labels(subject), config, source=source)
        signature = subject.task.signature
        implied = [name for name in signature.label_names if name not in signature.declared_labels]
        if trial.is_own and subject.task.declared is not None and signature.declared_labels and implied:
            with suppress(Exception):  # a training step that raises is told by a check
                form = trial.batch_format
                if isinstance(form, Declared) and not set(implied) & set(form.names):
                    trial.subject = with_labels(subject, form.names)
        return trial

    @property
    def is_own(self) -> bool:
        """Whether the model is a LightningModule, with its own training step and optimizers."""
        return is_lightning_module(self.subject.model)

    @cached_property
    def batch_format(self) -> BatchFormat:
        """How the model's own training step takes batches.

        Raises:
            TrainingError: It takes neither dicts nor tuples.
        """
        if not self.is_own:
            return as_dict  # the adapter puts the axes in the declared order
        if self._refused:
            raise self._refused[0]
        unformed = replace(self, validates=False)  # of a trial that was made from another one
        unformed.batch_format = as_dict

        def take_step(form: BatchFormat) -> None:
            try:
                unformed.train([form(self.subject.batch())])
            except Exception as error:
                if not (_WAITS_FOR_VALIDATION.search(str(error)) and overrides(self.subject.model, "validation_step")):
                    raise
                unformed.train([form(self.subject.batch())], held_out=[form(self.held_out)])
                self.validates = True

        try:
            return find_batch_format(self.subject.model, self.subject.adapter, take_step)
        except TrainingError as error:
            self._refused.append(error)
            raise

    @cached_property
    def held_out(self) -> Batch:
        """The rows of a validation pass, none of which is trained on."""
        return self.subject.batch(seed=100)

    @cached_property
    def batches_per_step(self) -> int:
        """Batches that the model's own training step takes before an optimizer step; 0 where no step is seen.

        Only manual optimisation can have another number than 1: what the config accumulates is not counted.
        """
        if not self.is_own or getattr(self.subject.model, "automatic_optimization", True):
            return 1
        batch = self.subject.batch()
        steps = self.train([batch] * MOST_BATCHES, TrialOptions(limit=1)).steps
        return round(steps[0].examples / self.subject.task.signature.row_count(batch)) if steps else 0

    def with_model(self, model: nn.Module, **shared: Any) -> Trial:
        """The trial of another form of the same model, such as in float64; what its training step needs to know is not found out again."""
        copies = self.subject.copies.of_variants(model)
        other = replace(self, subject=replace(self.subject, model=model, pristine=model, given_copies=copies, **shared))
        other.batch_format, other.batches_per_step, other.validates = self.batch_format, self.batches_per_step, self.validates
        return other

    def new_model(self, seed: int = 0) -> nn.Module:
        """A model to begin a training with: built under a seed where it can be, as a copy has the past of what no seed reaches; or a copy."""
        return self.subject.rebuild(seed) if self.subject.rebuild is not None else self.subject.fresh()

    @cached_property
    def data(self) -> Datasets:
        """What the config trains on and is judged on; the built-in set of the task where it names neither.

        Raises:
            DataError: Something is missing, unreadable, or does not fit the task; or there is no built-in set.
        """
        if self.source is None:
            return open_datasets(self.subject.task, None, None)
        return open_datasets(self.subject.task, self.source.train, self.source.eval, self.source.path.parent)

    @property
    def is_rate_chosen(self) -> bool:
        """Whether the learning rate is somebody's choice, the config's or the model's own optimizer's; the default is nobody's."""
        return self.is_own or "learning_rate" in self.config.model_fields_set

    @property
    def names_data(self) -> bool:
        """Whether the config names a dataset, rather than leaving it to the built-in ones."""
        named = (self.source.train, self.source.eval) if self.source is not None else ()
        return any(keys is not None and keys.is_named for keys in named)

    def stream(self, count: int, seed: int = 0) -> DrawnBatches:
        """The first batches of a training on ``data``, over as many epochs as that takes.

        Raises:
            DataError: As ``data``.
        """
        own = self.source.train.batch_size if self.source is not None and self.source.train is not None else None
        return DrawnBatches(
            make_loader(self.data.train, self.subject.task, own or self.config.batch_size, seed, shuffle=True), count
        )

    @torch.no_grad()
    def loss_outside_training(self, batch: Batch, model: nn.Module) -> float:
        """The loss of a batch in the model's current mode: that which it is trained by, or, of a training step, that of the labelled outputs.

        NaN where a training step is all that knows the loss.
        """
        subject, signature = self.subject, self.subject.task.signature
        if subject.task.declared is None:
            return float(subject.adapter.loss(subject.logits(batch, model), batch))
        if not self.is_own:
            with seeded(0):
                return float(subject.adapter.loss_of_call(model, batch))
        known = [output for output in signature.taught if ":" not in output.loss]
        values = subject.outputs(batch, model) if known else {}
        losses = [output.weight * float(signature.loss_of(output, values[output.name], batch)) for output in known]
        return sum(losses) if losses else math.nan

    def train(
        self,
        batches: Sequence[Any],
        options: TrialOptions = TrialOptions(),
        *,
        model: nn.Module | None = None,
        prepare: Prepare | None = None,
        on_gradients: OnGradients | None = None,
        until: Until | None = None,
        held_out: Sequence[Any] | None = None,
    ) -> Training:
        """Trains a fresh copy.

        Args:
            batches: The batches of an epoch, in order.
            options: How it is trained.
            model: Trained in place of a fresh copy.
            prepare: Changes the copy first, such as freezing parameters.
            on_gradients: Looks at the gradients before each step.
            until: Asked after each step whether to stop.
            held_out: Batches for the ``validation_step`` of a LightningModule, after each epoch.

        Raises:
            TrainingError: The training cannot be taken, or diverged.
        """
        subject, form = self.subject, self.batch_format
        if held_out is None and self.validates:
            held_out = [self.held_out]
        model = subject.fresh() if model is None else model
        if prepare is not None:
            prepare(model)
        steps = _Steps(model, until)
        checkpoints = CheckpointFolder(options.folder) if options.folder is not None else None
        rules = SupervisorOptions(checkpoint_every=1 if options.folder else None, limit=options.limit)
        supervisor = Supervisor(Plan("trial", options.epochs, 0), [steps], None, checkpoints, rules)
        steps.stop = lambda: setattr(supervisor, "should_stop", True)
        job = Job(
            model,
            subject.adapter,
            subject.task,
            self._config_for(options),
            _compute(subject.device, options.processes),
            FixedBatches(batches, form),
            options.epochs,
            options.seed,
            supervisor,
            options.resume,
            rank=options.rank,
            held_out=None if held_out is None else FixedBatches(held_out, form),
        )
        with nullcontext() if options.clip else without_clipping(model):
            optimizers, schedules = _fit(job, on_gradients)
        steps.put_back()
        return Training(model, optimizers, steps.taken, options.folder, schedules)

    def _config_for(self, options: TrialOptions) -> TrainingConfig:
        keys: dict[str, Any] = {
            "accumulate_grad_batches": options.accumulate,
            "max_grad_norm": self.config.max_grad_norm if options.clip else 0.0,
            "compile_mode": None,
        }
        if options.rate:
            keys["learning_rate"] = options.rate
        return self.config.model_copy(update=keys)


class _Steps(Listener):
    """Hears of each step, and keeps the weights of the last one where something may write into them when training ends, as averages do."""

    def __init__(self, model: nn.Module, until: Until | None) -> None:
        self.taken: list[Step] = []
        self.kept: dict[str, Tensor] = {}
        self._keeps = is_lightning_module(model) and overrides(model, *AT_THE_END)
        self.stop: Callable[[], None] = lambda: None
        self._model = model
        self._until = until

    def on_step(self, step: Step) -> None:
        self.taken.append(step)
        if self._keeps:
            self.kept = weights_of(self._model)
        if self._until is not None and self._until(self._model, len(self.taken)):
            self.stop()

    @torch.no_grad()
    def put_back(self) -> None:
        """Gives the model the weights of its last step again."""
        for name, tensor in chain(self._model.named_parameters(), self._model.named_buffers()):
            if name in self.kept and not torch.equal(tensor, self.kept[name]):
                tensor.copy_(self.kept[name])


def _compute(device: torch.device, processes: int) -> Compute:
    """Where the model is; in several processes, the CPU."""
    if processes > 1:
        return Compute("cpu", processes, strategy="ddp")
    accelerator: Any = device.type if device.type in ("cuda", "mps") else "cpu"
    return Compute(accelerator, (device.index or 0,) if accelerator == "cuda" else 1)


def _fit(job: Job, on_gradients: OnGradients | None) -> tuple[list[Optimizer], list[Any]]:
    """Runs the engine that fits the model; returns the optimizers, and the schedules that the model brings."""
    if is_lightning_module(job.model):
        from harness.training.engines.lightning import LightningEngine

        engine = LightningEngine(job, on_gradients=on_gradients)
        engine.fit()
        return list(engine.trainer.optimizers), list(engine.trainer.lr_scheduler_configs)
    from harness.training.engines import PlainEngine

    plain = PlainEngine(job, on_gradients=on_gradients)
    plain.fit()
    return [plain.optimizer], []


def seconds_per_step(trial: Trial) -> float:
    """Seconds of one step on a batch of typical sizes, with what a short training needs around it."""
    model = trial.subject.model
    if model not in _seconds_per_step:
        batch = trial.subject.batch()
        trial.train([batch], TrialOptions(limit=1))  # the first one imports and allocates
        started = processor_seconds()
        trial.train([batch], TrialOptions(limit=1))
        _seconds_per_step[model] = processor_seconds() - started
    return _seconds_per_step[model]


def too_long(trial: Trial, steps: int) -> str:
    """Why a number of steps is not taken; empty where there is time for it."""
    each = 0.0 if math.isinf(trial.seconds) else seconds_per_step(trial)
    if each * steps <= trial.seconds:
        return ""
    return (
        f"a step takes {each:.2g} s, so the {steps} steps of this check would take {each * steps:.2g} s, and `time_budget` leaves "
        f"{trial.seconds:.2g} s"
    )
