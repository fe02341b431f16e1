"""Two processes that train together, each on its half of the rows."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.batches import Batch, to_device
from harness.errors import TrainingError
from harness.training.checks.child_processes import Answer, PackingError, TrialSpec, run_in_processes
from harness.training.checks.gradient_noise import ModuleMode
from harness.training.checks.simulated_data_parallel import PARTS, half
from harness.training.checks.training_trace import FirstGradients, unsaved_attributes
from harness.training.engines import seed_batch
from harness.training.optimisation import Objective, clip_gradients, make_optimizer
from harness.training.trial import Trial, TrialOptions

_STEPS = 2
"""The second one is where PyTorch says that a parameter had no gradient in the first."""

_LOOPBACK = {"linux": "lo", "darwin": "lo0"}


class GroupError(TrainingError):
    """The processes did not find each other, whatever they are to train."""


@dataclass(frozen=True)
class RankResult:
    """What one of the processes has in the end.

    Attributes:
        gradients: Of its first update.
        weights: The parameters after its last one.
        attributes: Fingerprints of what its modules hold and the state dict does not.
        logits: Of one batch, in eval mode, with the buffers of the leading process.
    """

    gradients: dict[str, Tensor]
    weights: dict[str, Tensor]
    attributes: dict[str, str]
    logits: Tensor


@dataclass(frozen=True)
class _Work:
    spec: TrialSpec
    batch: Batch
    stances: tuple[ModuleMode, ...]
    find_unused: bool
    rank: int
    store: Path
    wait: float


def train_in_two_processes(
    trial: Trial, batch: Batch, stances: Sequence[ModuleMode], seconds: float, find_unused: bool = False
) -> list[Answer]:
    """Takes a few steps in two processes; each answers with a ``RankResult`` for each stance.

    Args:
        trial: The model.
        batch: The rows of both together, an even number of them.
        stances: What is done to the model, in train mode, before it is trained; one training each.
        seconds: What it may take.
        find_unused: Whether parameters without a gradient are accepted; of plain models, whose loss is not the user's.

    Raises:
        PackingError: The model cannot be given to another process.
    """
    local = to_device(batch, "cpu")
    wait = min(60.0, max(5.0, seconds / 3))
    with tempfile.TemporaryDirectory(prefix="modeltiers-ranks-", ignore_cleanup_errors=True) as folder:

        def work(spec: TrialSpec) -> list[_Work]:
            return [_Work(spec, local, tuple(stances), find_unused, rank, Path(folder) / "store", wait) for rank in range(PARTS)]

        environments = [_environment(rank) for rank in range(PARTS)]
        model = trial.subject.fresh().cpu()
        try:
            return run_in_processes(train_as_rank, work(TrialSpec.of(trial, model)), seconds, environments)
        except PackingError:
            spec = TrialSpec.rebuilding(trial, weights=dict(model.state_dict()))
            if spec is None:
                raise
            return run_in_processes(train_as_rank, work(spec), seconds, environments)


def train_as_rank(work: _Work) -> list[RankResult]:
    """What each process does.

    Raises:
        GroupError: The other one was not found.
    """
    try:
        store = torch.distributed.FileStore(str(work.store), PARTS)  # type: ignore[attr-defined]
        limit = timedelta(seconds=work.wait)
        torch.distributed.init_process_group("gloo", store=store, rank=work.rank, world_size=PARTS, timeout=limit)
    except Exception as error:
        raise GroupError(
            f"two processes cannot connect to each other on this machine: {next(iter(str(error).splitlines()), '')}"
        ) from error
    trial = work.spec.trial()
    return [_train(trial, work, stance) for stance in work.stances]


def _train(trial: Trial, work: _Work, stance: ModuleMode) -> RankResult:
    model = trial.subject.fresh().cpu()
    halves = [half(trial.subject.task.signature, work.batch, work.rank)] * (_STEPS * max(1, trial.batches_per_step))
    first = FirstGradients()
    if trial.is_own:
        trial.train(halves, TrialOptions(clip=False, processes=PARTS), model=model, prepare=stance, on_gradients=first)
    else:
        _take_steps(trial, model, halves, stance, work, first)
    for buffer in model.buffers():
        torch.distributed.broadcast(buffer, 0)  # as before each forward of a step
    parameters = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model.eval()
    return RankResult(first.gradients, parameters, unsaved_attributes(model), trial.subject.logits(work.batch, model))


class _Step(nn.Module):
    """The loss as the output of a module, which is what PyTorch wraps."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self._objective = objective

    def forward(self, batch: Batch) -> Tensor:
        """The batch's share of the loss."""
        return self._objective.loss(self.model, batch)


def _take_steps(
    trial: Trial, model: nn.Module, halves: Sequence[Batch], stance: ModuleMode, work: _Work, first: FirstGradients
) -> None:
    subject = trial.subject
    model.train()
    stance(model)
    objective = Objective(subject.adapter, subject.task, 1, PARTS, lambda sums: torch.distributed.all_reduce(sums))
    step = nn.parallel.DistributedDataParallel(_Step(model, objective), find_unused_parameters=work.find_unused)
    optimizer = make_optimizer(model, trial.config)
    for number, batch in enumerate(halves):
        seed_batch(0, 0, number, work.rank)
        step(batch).backward()
        objective.finish(model.parameters())
        first(model, [optimizer])
        clip_gradients(model, trial.config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()


def _environment(rank: int) -> Mapping[str, str]:
    """What torchrun would set, and a network that is always there."""
    found = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(PARTS),
        "LOCAL_WORLD_SIZE": str(PARTS),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
        "TORCHELASTIC_RUN_ID": "modeltiers",
        "TORCH_DISTRIBUTED_DEBUG": "INFO",
    }
    if sys.platform in _LOOPBACK and "GLOO_SOCKET_IFNAME" not in os.environ:
        found["GLOO_SOCKET_IFNAME"] = _LOOPBACK[sys.platform]
    return found


def on_cpu(trial: Trial) -> Trial:
    """The trial of the model on the CPU."""
    if trial.subject.device.type == "cpu":
        return trial
    return trial.with_model(trial.subject.fresh().cpu())
