"""Learning rate schedules whose length is counted in something else than what steps them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR, CosineAnnealingWarmRestarts, LambdaLR, LinearLR, OneCycleLR, StepLR

from harness.evidence import Status

from ..register import PYTORCH
from .training import LIGHTNING, TABLE, LitScores, ManualScores, Training, plant


class Scheduled(LitScores):
    """A cosine over the steps of the run."""

    interval = "step"

    def schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        return CosineAnnealingLR(optimizer, T_max=int(self.trainer.estimated_stepping_batches))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.schedule(optimizer), "interval": self.interval}}


class ByEpochs(Scheduled):
    """Sound: a cosine over the epochs."""

    interval = "epoch"

    def schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        return CosineAnnealingLR(optimizer, T_max=self.trainer.max_epochs)


class EpochsStepByStep(ByEpochs):
    interval = "step"


class ByTheRate(Scheduled):
    """A fall every few steps; the number of steps is the rate."""

    every: Any = 0.01

    def schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        return StepLR(optimizer, self.every)


class ByNumbers(ByTheRate):
    every = 40


class StepsEpochByEpoch(Scheduled):
    interval = "epoch"


class BatchesOfTheRun(Scheduled):
    """A line to 0 over the batches of the run, whether or not they are accumulated."""

    def schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        total = int(self.trainer.estimated_stepping_batches) * self.trainer.accumulate_grad_batches
        return LambdaLR(optimizer, lambda step: max(0.0, 1 - step / total))


class StepsOfTheRun(Scheduled):
    def schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        total = int(self.trainer.estimated_stepping_batches)
        return LambdaLR(optimizer, lambda step: max(0.0, 1 - step / total))


class BelowZero(Scheduled):
    def schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        total = max(1, int(self.trainer.estimated_stepping_batches) // 2)
        return LambdaLR(optimizer, lambda step: 1 - step / total)


class OneCycleOfAnEpoch(Scheduled):
    def schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        return OneCycleLR(optimizer, max_lr=1e-2, total_steps=max(1, int(self.trainer.estimated_stepping_batches) // 4))


class OneCycleOfTheRun(Scheduled):
    def schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        return OneCycleLR(optimizer, max_lr=1e-2, total_steps=int(self.trainer.estimated_stepping_batches))


class LineOfAnEpoch(Scheduled):
    def schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        return LinearLR(optimizer, 1.0, 0.0, total_iters=int(self.trainer.estimated_stepping_batches) // 4)


class WarmUpThenRoot(Scheduled):
    """Sound: a warm-up over a tenth of the run, then the inverse root, which has no end."""

    def schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        warm = max(1, int(self.trainer.estimated_stepping_batches) // 10)
        return LambdaLR(optimizer, lambda step: min((step + 1) / warm, math.sqrt(warm / (step + 1))))


class TimesProcesses(Scheduled):
    def schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        return CosineAnnealingLR(optimizer, T_max=int(self.trainer.estimated_stepping_batches) * self.trainer.world_size)


class Restarts(Scheduled):
    """Sound: rises again on purpose."""

    def schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        return CosineAnnealingWarmRestarts(optimizer, T_0=10)


class NeverStepped(ManualScores):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        total = int(self.trainer.estimated_stepping_batches)
        return [optimizer], [LambdaLR(optimizer, lambda step: max(0.0, 1 - step / total))]


class SteppedByHand(NeverStepped):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        super().training_step(batch, batch_idx)
        schedule: Any = self.lr_schedulers()
        schedule.step()


class SteppedByEveryProcess(NeverStepped):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        super().training_step(batch, batch_idx)
        schedule: Any = self.lr_schedulers()
        for _ in range(self.trainer.world_size):
            schedule.step()


class SteppedByHandAtEpochs(NeverStepped):
    def on_train_epoch_end(self) -> None:
        schedule: Any = self.lr_schedulers()
        schedule.step()


class WarmUpByHand(LitScores):
    """Sound: the rate rises over the first quarter of the run, without a schedule."""

    def step(self, batch_idx: int) -> int:
        return int(self.trainer.global_step)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        warm = max(2, int(self.trainer.estimated_stepping_batches) // 4)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = 1e-2 * min(1.0, (self.step(batch_idx) + 1) / warm)


class WarmUpOfTheEpoch(WarmUpByHand):
    def step(self, batch_idx: int) -> int:
        return batch_idx


ENDS = Training(TABLE, Scheduled)
WARNS: dict[str, Any] = {"status": Status.WARN}
ACCUMULATED: dict[str, Any] = {"accumulate_grad_batches": 2}

for name, buggy, sound, code, more in (
    ("epochs_of_a_schedule_of_steps", Training(TABLE, EpochsStepByStep), Training(TABLE, ByEpochs), "rises_again", WARNS),
    ("steps_of_a_schedule_of_epochs", Training(TABLE, StepsEpochByEpoch), ENDS, "schedule_unfinished", WARNS),
    (
        "schedule_of_batches_under_accumulation",
        Training(TABLE, BatchesOfTheRun, config=ACCUMULATED),
        Training(TABLE, StepsOfTheRun, config=ACCUMULATED),
        "schedule_unfinished",
        WARNS,
    ),
    ("falls_by_the_rate", Training(TABLE, ByTheRate), Training(TABLE, ByNumbers), "length_not_whole", {}),
    ("rate_below_zero", Training(TABLE, BelowZero), Training(TABLE, WarmUpThenRoot), "unusable_rate", {}),
    ("one_cycle_of_an_epoch", Training(TABLE, OneCycleOfAnEpoch), Training(TABLE, OneCycleOfTheRun), "schedule_raises", {}),
    (
        "warm_up_of_an_epoch_by_hand",
        Training(TABLE, WarmUpOfTheEpoch),
        Training(TABLE, WarmUpByHand),
        "warms_up_each_epoch",
        WARNS,
    ),
    ("line_of_an_epoch", Training(TABLE, LineOfAnEpoch), Training(TABLE, Restarts), "schedule_ends_early", WARNS),
):
    plant(name, "learning_rate_schedule", buggy, sound, code, PYTORCH, **more)

for name, buggy, sound, says in (
    ("schedule_times_the_processes", TimesProcesses, Scheduled, "it ends after 320 steps, and after 160 in a single one"),
    ("schedule_stepped_by_every_process", SteppedByEveryProcess, SteppedByHand, "it is stepped 2 times as often"),
):
    plant(
        name,
        "learning_rate_schedule",
        Training(TABLE, buggy),
        Training(TABLE, sound),
        "counts_processes",
        "huggingface/accelerate documentation: a prepared scheduler is stepped once for each process",
        says=says,
        **WARNS,
    )

plant(
    "schedule_never_stepped",
    "learning_rate_schedule",
    Training(TABLE, NeverStepped),
    Training(TABLE, SteppedByHand),
    "schedule_not_stepped",
    LIGHTNING,
    says="`LambdaLR` is never stepped",
    **WARNS,
)
plant(
    "schedule_of_steps_stepped_by_hand_at_epochs",
    "learning_rate_schedule",
    Training(TABLE, SteppedByHandAtEpochs),
    Training(TABLE, SteppedByHand),
    "schedule_unfinished",
    LIGHTNING,
    says="so the run ends at",
    **WARNS,
)
