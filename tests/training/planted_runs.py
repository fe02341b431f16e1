"""Runs that go wrong in one way each, and their corrected twins: what must be found, by which check, and where."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from harness.adapters import make_adapter
from harness.config import TrainingConfig, load_config
from harness.properties.subject import Subject
from harness.randomness import seeded
from harness.tasks import TaskSpec, TaskType
from harness.training.trial import Trial

from . import lightning_run_models as own
from . import run_models as plain

TABLE = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=6, num_classes=4)
NUMBER = TaskSpec(TaskType.TABULAR_REGRESSION, num_features=6)

IN_PROCESS = 4.0
"""Seconds that are too few to start a process."""

FORUM = "PyTorch forums"
HUMBATOVA = "Humbatova et al. 2020, Taxonomy of Real Faults in Deep Learning Systems"
LIGHTNING = "Lightning documentation"
PYTORCH = "PyTorch documentation"


@dataclass(frozen=True)
class Run:
    """A model, and how it is trained.

    Attributes:
        build: Makes it.
        task: What it is for.
        config: Training keys.
        fresh: Whether its weights count as just made, rather than loaded.
        data: Whether there is a dataset.
        seconds: What the check may take.
    """

    build: Callable[[], nn.Module]
    task: TaskSpec = TABLE
    config: dict[str, Any] = field(default_factory=dict)
    fresh: bool = True
    data: bool = False
    seconds: float = float("inf")

    def trial(self, folder: Path) -> Trial:
        """The trial that judges it."""

        def build(seed: int) -> nn.Module:
            with seeded(seed):
                return self.build().eval()

        model = build(0)
        subject = Subject(model, make_adapter(self.task), self.task, pristine=model, rebuild=build, fresh_weights=self.fresh)
        trial = Trial(subject, TrainingConfig(**{"learning_rate": 5e-3, **self.config}), seconds=self.seconds)
        if self.data:
            trial.source = load_config(write_data(folder, self.task))
        return trial


@dataclass(frozen=True)
class Planted:
    """A bug that one check must find.

    Attributes:
        check: The check.
        broken: The run with the bug.
        sound: The same without it.
        says: A part of the message.
        module: What is blamed.
        source: Where this kind of bug is described.
        status: The verdict on it.
    """

    check: str
    broken: Run
    sound: Run
    says: str
    module: str
    source: str
    status: str = "fail"

    @property
    def name(self) -> str:
        """For test ids."""
        return f"{self.check}-{called(self.broken.build)}{''.join(f'-{key}{value}' for key, value in self.broken.config.items())}"


def called(build: Callable[[], nn.Module]) -> str:
    """The name of a factory."""
    if isinstance(build, partial):
        return "-".join([called(build.func), *(called(argument) for argument in build.args if callable(argument))])
    return getattr(build, "__name__", "model")


def write_data(folder: Path, task: TaskSpec) -> Path:
    """A table from which the labels can be told, far from standardised, and a config that names it; returns the config."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((600, 6))
    scores = features @ rng.standard_normal((6, 4))
    labels = scores.argmax(1) if task.num_classes else 20 + 5 * scores[:, 0]
    if task.num_classes:
        features = features * 3 + 40
    for split, rows in (("train", slice(0, 480)), ("validation", slice(480, 600))):
        np.savez(folder / f"{split}.npz", features=features[rows].astype(np.float32), labels=labels[rows])
    sizes = {"num_features": 6, **({"num_classes": 4} if task.num_classes else {})}
    data = {"train": {"path": "train.npz"}, "eval": {"path": "validation.npz"}}
    file = folder / "run.json"
    file.write_text(json.dumps({"task_type": task.task_type.value, **sizes, **data}))
    return file


def _normed(norm: Callable[[], nn.Module], **more: Any) -> Run:
    return Run(partial(plain.Normed, norm), **more)


SHARED = _normed(plain.CentredMemory)
BATCH_NORM = partial(nn.BatchNorm1d, plain.WIDTH)

PLANTED = (
    Planted(
        "seeded_repeat",
        _normed(plain.OwnNoise),
        _normed(plain.Noise, seconds=IN_PROCESS),
        "gives another model when it is repeated: the loss differs at step 1",
        "norm",
        f"{FORUM}: np.random.default_rng() ignores np.random.seed",
    ),
    Planted(
        "seeded_repeat",
        _normed(plain.ClassCounter),
        _normed(plain.BufferCounter, seconds=IN_PROCESS),
        "gives another model when it is repeated: the loss differs at step 1",
        "norm",
        f"{FORUM}: class attributes are shared by all instances",
    ),
    Planted(
        "seeded_repeat",
        Run(partial(plain.Columns, plain.Hashed)),
        Run(partial(plain.Columns, plain.Ordered)),
        "gives another model in another process: the loss differs at step 1",
        "order",
        "Python documentation, PYTHONHASHSEED",
    ),
    Planted(
        "seeded_repeat",
        Run(plain.UnseededStart),
        Run(plain.SeededStart, seconds=IN_PROCESS),
        "the same seed builds models with other weights",
        "middle.weight",
        f"{FORUM}: np.random.default_rng() ignores np.random.seed",
    ),
    Planted(
        "seeded_repeat",
        Run(own.ClockWeight),
        Run(own.StepWeight, seconds=IN_PROCESS),
        "the loss differs at step 1",
        "training_step",
        HUMBATOVA,
    ),
    Planted(
        "seeded_repeat",
        Run(own.ImportedRng),
        Run(own.GlobalRng, seconds=IN_PROCESS),
        "the loss differs at step 1",
        "training_step",
        f"{LIGHTNING}, seed_everything: generators made before it are not reached",
    ),
    Planted(
        "resume",
        _normed(plain.PlainAverage),
        _normed(plain.BufferedAverage),
        "not the uninterrupted one: the loss differs at step 5",
        "norm.average",
        f"{FORUM}: moving average lost after resuming",
    ),
    Planted(
        "resume",
        _normed(plain.UnsavedAverage),
        _normed(plain.BufferedAverage),
        "not the uninterrupted one: the loss differs at step 5",
        "norm.average",
        f"{PYTORCH}, register_buffer(persistent=False)",
    ),
    Planted(
        "resume",
        _normed(plain.Annealed),
        _normed(plain.AnnealedBuffer),
        "not the uninterrupted one: the loss differs at step 5",
        "norm.steps",
        f"{FORUM}: a step counter that starts at 0 after loading",
    ),
    Planted(
        "resume",
        Run(own.KLWeight),
        Run(own.SavedKLWeight),
        "not the uninterrupted one: the loss differs at step 5",
        "weight",
        f"{LIGHTNING}, on_save_checkpoint",
    ),
    Planted(
        "resume",
        Run(partial(own.Optimized, own.Lookahead)),
        Run(partial(own.Optimized, own.SavedLookahead)),
        "`net.stem.weight` differs after step 6",
        "Lookahead.k",
        f"{PYTORCH}, Optimizer.state_dict holds `state` and `param_groups`",
    ),
    Planted(
        "resume",
        Run(own.ClockSchedule),
        Run(own.StepSchedule),
        "has another schedule: the learning rate differs at step 1",
        "",
        HUMBATOVA,
    ),
    Planted(
        "distributed",
        Run(plain.Spare),
        Run(plain.Net),
        "stops at the second step: it needs a gradient of every parameter, and `spare.weight` receives none (and 1 other parameter)",
        "spare.weight",
        f"{PYTORCH}, DistributedDataParallel: find_unused_parameters",
    ),
    Planted(
        "distributed",
        _normed(plain.Centred),
        SHARED,
        "what a row contributes depends on the other rows of its process",
        "norm",
        f"{FORUM}: statistics of the batch under DDP",
    ),
    Planted(
        "distributed",
        _normed(plain.CentredWhileTraining),
        SHARED,
        "what a row contributes depends on the other rows of its process",
        "norm",
        f"{FORUM}: statistics of the batch under DDP",
    ),
    Planted(
        "distributed",
        _normed(plain.Memory),
        SHARED,
        "after a step the processes have other models",
        "norm.rows",
        f"{PYTORCH}, DistributedDataParallel: broadcast_buffers",
    ),
    Planted(
        "distributed",
        _normed(plain.LeadersShare),
        SHARED,
        "is not the mean of what each half of the rows gives",
        "head.weight",
        f"{FORUM}: code for rank 0 that changes the loss",
    ),
    Planted(
        "distributed",
        _normed(BATCH_NORM, config={"strategy": "ddp", "batch_size": 4}),
        _normed(BATCH_NORM, config={"strategy": "ddp", "batch_size": 32}),
        "batch norm takes its statistics from the 4 rows of each process alone",
        "norm",
        "Wu and He 2018, Group Normalization",
        "warn",
    ),
    Planted(
        "distributed",
        Run(own.Summed),
        Run(own.Spread),
        "the gradients are 2 times smaller than with one",
        "net.head.bias",
        f"{PYTORCH}, DistributedDataParallel: gradients are averaged",
    ),
    Planted(
        "distributed",
        Run(own.Contrastive),
        Run(own.Spread),
        "what a row contributes depends on the other rows of its process",
        "training_step",
        f"{LIGHTNING}, all_gather: in-batch negatives",
    ),
    Planted(
        "distributed",
        Run(own.OwnBackward),
        Run(own.Spread),
        "the processes keep gradients of their own: that of `net.stem.weight` is not averaged (and 5 other parameters)",
        "net.stem.weight",
        f"{LIGHTNING}, manual optimization: use self.manual_backward(loss) instead of loss.backward()",
    ),
    Planted(
        "fine_tuning",
        Run(plain.Thawing),
        Run(plain.Lasting),
        "`stem.weight` does not stay frozen (and 3 other parameters): train() unfreezes it",
        "stem.weight",
        f"{FORUM}: frozen layers train again after model.train()",
    ),
    Planted(
        "fine_tuning",
        Run(plain.ThawingForward),
        Run(plain.QuietForward),
        "`stem.weight` does not stay frozen: the training step unfreezes it",
        "stem.weight",
        f"{FORUM}: requires_grad set in forward",
    ),
    Planted(
        "fine_tuning",
        Run(plain.SavesMemory),
        Run(plain.SavesSomeMemory),
        "the loss carries no gradient back to the last layer",
        "head",
        f"{FORUM}: element 0 of tensors does not require grad, after freezing",
    ),
    Planted(
        "fine_tuning",
        Run(own.DecayByHand),
        Run(own.DecayOfTrained),
        "`net.stem.weight` is frozen and moves nevertheless (and 3 other parameters)",
        "net.stem.weight",
        f"{FORUM}: frozen weights change by weight decay",
    ),
    Planted(
        "fine_tuning",
        Run(own.BackboneOptimizer),
        Run(own.WholeOptimizer),
        "`net.head.weight` does not move (and 1 other parameter): no optimizer holds it",
        "net.head.weight",
        f"{FORUM}: the new head is missing from the optimizer",
    ),
    Planted(
        "hyperparameter_sensitivity",
        Run(plain.Net, config={"learning_rate": 10.0}),
        Run(plain.Net),
        "at learning rate 10 the loss rises from",
        "",
        f"{HUMBATOVA}: learning rate too high",
    ),
    Planted(
        "hyperparameter_sensitivity",
        Run(plain.Net, config={"learning_rate": 1e-9}),
        Run(plain.Net),
        "at learning rate 1e-09 the loss does not fall in 20 steps",
        "",
        f"{HUMBATOVA}: learning rate too low",
        "warn",
    ),
    Planted(
        "hyperparameter_sensitivity",
        Run(plain.Net, config={"learning_rate": 1e-6}, data=True),
        Run(plain.Net, config={"learning_rate": 1e-2}, data=True),
        "the 60 steps that are planned lower the loss",
        "",
        f"{HUMBATOVA}: learning rate too low",
        "warn",
    ),
    Planted(
        "hyperparameter_sensitivity",
        Run(own.HotSGD),
        Run(own.WarmSGD),
        "at its own learning rate the loss rises from",
        "",
        f"{HUMBATOVA}: learning rate too high",
    ),
    Planted(
        "hyperparameter_sensitivity",
        Run(own.CliffSGD),
        Run(own.WarmSGD),
        "the rate is near a cliff",
        "",
        "Smith 2017, Cyclical Learning Rates",
        "warn",
    ),
    Planted(
        "hyperparameter_sensitivity",
        Run(own.Unscaled),
        Run(own.Scaled),
        "at its own learning rate the loss becomes NaN or infinite; at 0.001 times its own learning rate it falls",
        "",
        f"{HUMBATOVA}: wrong scale of the loss",
    ),
    Planted(
        "baseline_comparison",
        Run(partial(plain.Standardised, plain.NeverUpdated), data=True),
        Run(partial(plain.Standardised, plain.Updated), data=True),
        "worse than the frequency of each class",
        "",
        f"{PYTORCH}, BatchNorm: running statistics",
    ),
    Planted(
        "baseline_comparison",
        Run(own.WrongRows, data=True),
        Run(own.RightRows, data=True),
        "the frequency of each class",
        "",
        f"{HUMBATOVA}: labels that do not belong to their inputs",
        "warn",
    ),
    Planted(
        "baseline_comparison",
        Run(own.ScaledTarget, NUMBER, data=True),
        Run(own.UnscaledTarget, NUMBER, data=True),
        "worse than the mean of the training labels",
        "",
        f"{HUMBATOVA}: output not brought back to the units of the target",
    ),
)
