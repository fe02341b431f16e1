"""Runs that go wrong in one way each, and their corrected twins: what must be found, by which check, and where."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from harness.evidence import Status
from harness.tasks import TaskSpec, TaskType

from ..register import FORUM, HUMBATOVA, LIGHTNING, PYTORCH
from . import lightning_run_models as own
from . import run_models as plain
from .training import Training, plant

TABLE = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=6, num_classes=4)
NUMBER = TaskSpec(TaskType.TABULAR_REGRESSION, num_features=6)

IN_PROCESS = 4.0
"""Seconds that are too few to start a process."""


def run_of(
    build: Callable[[], nn.Module], task: TaskSpec = TABLE, *, config: dict[str, Any] | None = None, **more: Any
) -> Training:
    """A model that is trained at a rate that suits it, unless the training keys say another one."""
    return Training(task, build, config={"learning_rate": 5e-3, **(config or {})}, **more)


def _plant(check: str, broken: Training, sound: Training, code: str, source: str, **more: Any) -> None:
    """Registers a bug that is named after its model and the training keys that differ from the twin's."""
    keys = "".join(f"-{key}{value}" for key, value in broken.config.items() if value != sound.config.get(key))
    plant(f"{broken.name}{keys}", check, broken, sound, code, source, **more)


def _normed(norm: Callable[[], nn.Module], **more: Any) -> Training:
    return run_of(partial(plain.Normed, norm), **more)


SHARED = _normed(plain.CentredMemory)
AVERAGE = _normed(plain.BufferedAverage)
BATCH_NORM = partial(nn.BatchNorm1d, plain.WIDTH)

_plant(
    "seeded_repeat",
    _normed(plain.OwnNoise),
    _normed(plain.Noise, seconds=IN_PROCESS),
    "differs_when_repeated",
    f"{FORUM}: np.random.default_rng() ignores np.random.seed",
    module="norm",
    says="gives a different model when it is repeated: the loss differs at step 1",
)
_plant(
    "seeded_repeat",
    _normed(plain.ClassCounter),
    _normed(plain.BufferCounter, seconds=IN_PROCESS),
    "differs_when_repeated",
    f"{FORUM}: class attributes are shared by all instances",
    module="norm",
)
_plant(
    "seeded_repeat",
    run_of(partial(plain.Columns, plain.Hashed)),
    run_of(partial(plain.Columns, plain.Ordered)),
    "differs_between_processes",
    "Python documentation, PYTHONHASHSEED",
    module="order",
    says="gives a different model in another process: the loss differs at step 1",
)
_plant(
    "seeded_repeat",
    run_of(plain.UnseededStart),
    run_of(plain.SeededStart, seconds=IN_PROCESS),
    "initial_weights_differ",
    f"{FORUM}: np.random.default_rng() ignores np.random.seed",
    module="middle.weight",
)
_plant(
    "seeded_repeat",
    run_of(own.ClockWeight),
    run_of(own.StepWeight, seconds=IN_PROCESS),
    "differs_when_repeated",
    HUMBATOVA,
    module="training_step",
)
_plant(
    "seeded_repeat",
    run_of(own.ImportedRng),
    run_of(own.GlobalRng, seconds=IN_PROCESS),
    "differs_when_repeated",
    f"{LIGHTNING}, seed_everything: generators made before it are not reached",
    module="training_step",
)
_plant(
    "resume",
    _normed(plain.PlainAverage),
    AVERAGE,
    "resumed_run_differs",
    f"{FORUM}: moving average lost after resuming",
    module="norm.average",
    says="differs from the uninterrupted run: the loss differs at step 5",
)
_plant(
    "resume",
    _normed(plain.UnsavedAverage),
    AVERAGE,
    "resumed_run_differs",
    f"{PYTORCH}, register_buffer(persistent=False)",
    module="norm.average",
)
_plant(
    "resume",
    _normed(plain.Annealed),
    _normed(plain.AnnealedBuffer),
    "resumed_run_differs",
    f"{FORUM}: a step counter that starts at 0 after loading",
    module="norm.steps",
)
_plant(
    "resume",
    run_of(own.KLWeight),
    run_of(own.SavedKLWeight),
    "resumed_run_differs",
    f"{LIGHTNING}, on_save_checkpoint",
    module="weight",
)
_plant(
    "resume",
    run_of(partial(own.Optimized, own.Lookahead)),
    run_of(partial(own.Optimized, own.SavedLookahead)),
    "resumed_run_differs",
    f"{PYTORCH}, Optimizer.state_dict holds `state` and `param_groups`",
    module="Lookahead.k",
    says="`net.stem.weight` differs after step 6",
)
_plant(
    "resume",
    run_of(own.ClockSchedule),
    run_of(own.StepSchedule),
    "schedule_differs",
    HUMBATOVA,
    says="the learning rate schedule differs when the run is repeated: the learning rate differs at step 1",
)
_plant(
    "resume",
    run_of(own.OwnDecay),
    run_of(own.GlobalDecay),
    "resumed_run_differs",
    f"{LIGHTNING}, global_step is restored from a checkpoint",
    module="taken",
    says="the learning rate differs at step",
)
_plant(
    "distributed",
    run_of(plain.Spare),
    run_of(plain.Net),
    "parameter_without_gradient",
    f"{PYTORCH}, DistributedDataParallel: find_unused_parameters",
    module="spare.weight",
    says="stops at the second step: every parameter needs a gradient, and `spare.weight` receives none (and 1 other parameter)",
)
_plant(
    "distributed",
    _normed(plain.Centred),
    SHARED,
    "rows_depend_on_each_other",
    f"{FORUM}: statistics of the batch under DDP",
    module="norm",
)
_plant(
    "distributed",
    _normed(plain.CentredWhileTraining),
    SHARED,
    "rows_depend_on_each_other",
    f"{FORUM}: statistics of the batch under DDP",
    module="norm",
)
_plant(
    "distributed",
    _normed(plain.Memory),
    SHARED,
    "state_differs",
    f"{PYTORCH}, DistributedDataParallel: broadcast_buffers",
    module="norm.rows",
)
_plant(
    "distributed",
    _normed(plain.LeadersShare),
    SHARED,
    "depends_on_rank",
    f"{FORUM}: code for rank 0 that changes the loss",
    module="head.weight",
)
_plant(
    "distributed",
    _normed(BATCH_NORM, config={"strategy": "ddp", "batch_size": 4}),
    _normed(BATCH_NORM, config={"strategy": "ddp", "batch_size": 32}),
    "small_batch_statistics",
    "Wu and He 2018, Group Normalization",
    module="norm",
    status=Status.WARN,
    says="batch norm takes its statistics from only the 4 rows of each process",
)
_plant(
    "distributed",
    run_of(own.Summed),
    run_of(own.Spread),
    "gradient_scales_with_processes",
    f"{PYTORCH}, DistributedDataParallel: gradients are averaged",
    module="net.head.bias",
    says="gradients are 2 times smaller with 2 processes than with 1",
)
_plant(
    "distributed",
    run_of(own.Contrastive),
    run_of(own.Spread),
    "rows_depend_on_each_other",
    f"{LIGHTNING}, all_gather: in-batch negatives",
    module="training_step",
)
_plant(
    "distributed",
    run_of(own.OwnBackward),
    run_of(own.Spread),
    "gradients_not_averaged",
    f"{LIGHTNING}, manual optimization: use self.manual_backward(loss) instead of loss.backward()",
    module="net.stem.weight",
    says="gradients are not averaged over the processes: that of `net.stem.weight` differs between them (and 5 other parameters)",
)
_plant(
    "fine_tuning",
    run_of(plain.Thawing),
    run_of(plain.Lasting),
    "unfrozen",
    f"{FORUM}: frozen layers train again after model.train()",
    module="stem.weight",
    says="`stem.weight` does not stay frozen (and 3 other parameters): train() unfreezes it",
)
_plant(
    "fine_tuning",
    run_of(plain.ThawingForward),
    run_of(plain.QuietForward),
    "unfrozen",
    f"{FORUM}: requires_grad set in forward",
    module="stem.weight",
    says="`stem.weight` does not stay frozen: the training step unfreezes it",
)
_plant(
    "fine_tuning",
    run_of(plain.SavesMemory),
    run_of(plain.SavesSomeMemory),
    "no_gradient_to_head",
    f"{FORUM}: element 0 of tensors does not require grad, after freezing",
    module="head",
)
_plant(
    "fine_tuning",
    run_of(own.DecayByHand),
    run_of(own.DecayOfTrained),
    "frozen_parameter_changes",
    f"{FORUM}: frozen weights change by weight decay",
    module="net.stem.weight",
    says="`net.stem.weight` is frozen and changes all the same (and 3 other parameters)",
)
_plant(
    "fine_tuning",
    run_of(own.BackboneOptimizer),
    run_of(own.WholeOptimizer),
    "head_does_not_change",
    f"{FORUM}: the new head is missing from the optimizer",
    module="net.head.weight",
    says="`net.head.weight` does not change (and 1 other parameter): no optimizer holds it",
)
_plant(
    "hyperparameter_sensitivity",
    run_of(plain.Net, config={"learning_rate": 10.0}),
    run_of(plain.Net),
    "rate_too_high",
    f"{HUMBATOVA}: learning rate too high",
    says="at learning rate 10 the loss rises from",
)
_plant(
    "hyperparameter_sensitivity",
    run_of(plain.Net, config={"learning_rate": 1e-9}),
    run_of(plain.Net),
    "rate_too_low",
    f"{HUMBATOVA}: learning rate too low",
    status=Status.WARN,
    says="at learning rate 1e-09 the loss does not fall in 20 steps",
)
_plant(
    "hyperparameter_sensitivity",
    run_of(plain.Net, config={"learning_rate": 1e-6}, data=True),
    run_of(plain.Net, config={"learning_rate": 1e-2}, data=True),
    "planned_training_too_short",
    f"{HUMBATOVA}: learning rate too low",
    status=Status.WARN,
    says="the 60 planned steps would lower the loss",
)
_plant(
    "hyperparameter_sensitivity",
    run_of(own.HotSGD),
    run_of(own.WarmSGD),
    "rate_too_high",
    f"{HUMBATOVA}: learning rate too high",
    says="at the model's learning rate the loss rises from",
)
_plant(
    "hyperparameter_sensitivity",
    run_of(own.CliffSGD),
    run_of(own.WarmSGD),
    "near_divergence",
    "Smith 2017, Cyclical Learning Rates",
    status=Status.WARN,
)
_plant(
    "hyperparameter_sensitivity",
    run_of(own.Unscaled),
    run_of(own.Scaled),
    "rate_too_high",
    f"{HUMBATOVA}: wrong scale of the loss",
    says="at the model's learning rate the loss becomes NaN or infinite; at 0.001 times the model's learning rate it falls",
)
_plant(
    "baseline_comparison",
    run_of(partial(plain.Standardised, plain.NeverUpdated), data=True),
    run_of(partial(plain.Standardised, plain.Updated), data=True),
    "worse_than_baseline",
    f"{PYTORCH}, BatchNorm: running statistics",
    says="worse than the frequency of each class",
)
_plant(
    "baseline_comparison",
    run_of(own.WrongRows, data=True),
    run_of(own.RightRows, data=True),
    "not_distinguishable",
    f"{HUMBATOVA}: labels that do not belong to their inputs",
    status=Status.WARN,
)
_plant(
    "baseline_comparison",
    run_of(own.ScaledTarget, NUMBER, data=True),
    run_of(own.UnscaledTarget, NUMBER, data=True),
    "worse_than_baseline",
    f"{HUMBATOVA}: output not brought back to the units of the target",
    says="worse than the mean of the training labels",
)
