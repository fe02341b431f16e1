"""Averages of weights that leave something out, or begin elsewhere."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from harness.evidence import Status

from ..register import PYTORCH
from .training import CLASSES, FEATURES, TABLE, LitScores, Training, plant


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(FEATURES, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, CLASSES))


class Averaged(LitScores):
    """Trains one network, and answers with an average of it; buffers are copied."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.average = self.begin().requires_grad_(False)

    def begin(self) -> nn.Module:
        return copy.deepcopy(self.net)

    def forward(self, features: Tensor) -> Tensor:
        return (self.net if self.training else self.average)(features)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
        return F.cross_entropy(self.net(batch["features"]), batch["labels"])

    @torch.no_grad()
    def on_train_batch_end(self, *_call: Any) -> None:
        for mean, now in zip(self.average.parameters(), self.net.parameters(), strict=True):
            mean.lerp_(now, 0.1)
        self.copy_buffers()

    def copy_buffers(self) -> None:
        for mean, now in zip(self.average.buffers(), self.net.buffers(), strict=True):
            mean.copy_(now)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.net.parameters(), lr=1e-2)


class WithoutBuffers(Averaged):
    def copy_buffers(self) -> None:
        pass


class OfTwoNames(Averaged):
    """What is averaged holds a network that the model holds under another name too."""

    def begin(self) -> nn.Module:
        self.online = nn.Sequential(self.net)
        return copy.deepcopy(self.online)


class OfTwoNamesWithoutBuffers(OfTwoNames, WithoutBuffers):
    pass


class BuiltAnew(Averaged):
    def begin(self) -> nn.Module:
        return network()


class BeginsWithZeros(Averaged):
    def begin(self) -> nn.Module:
        average = network()
        for parameter in average.parameters():
            nn.init.zeros_(parameter)
        return average


class BuiltAnewAndWarmedUp(BuiltAnew):
    """Sound: the first update copies the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("updates", torch.zeros(()))

    @torch.no_grad()
    def on_train_batch_end(self, *_call: Any) -> None:
        share = 1 / (1 + float(self.updates))
        self.updates += 1
        for mean, now in zip(self.average.parameters(), self.net.parameters(), strict=True):
            mean.lerp_(now, max(0.1, share))
        self.copy_buffers()


class WithoutHead(Averaged):
    @torch.no_grad()
    def on_train_batch_end(self, *_call: Any) -> None:
        for mean, now in list(zip(self.average.parameters(), self.net.parameters(), strict=True))[:-2]:
            mean.lerp_(now, 0.1)
        self.copy_buffers()


class StochasticAverage(Averaged):
    """Sound: stochastic weight averaging by epochs, which begins with the first weights it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.swa = AveragedModel(self.net).requires_grad_(False)
        del self.average

    def forward(self, features: Tensor) -> Tensor:
        return (self.net if self.training else self.swa)(features)

    def on_train_batch_end(self, *_call: Any) -> None:
        pass

    def on_train_epoch_end(self) -> None:
        self.swa.update_parameters(self.net)


class AtOnce(Averaged):
    """Has the share of the old and of the new weights in each other's place."""

    @torch.no_grad()
    def on_train_batch_end(self, *_call: Any) -> None:
        for mean, now in zip(self.average.parameters(), self.net.parameters(), strict=True):
            mean.lerp_(now, 0.99)
        self.copy_buffers()


class RunsAway(Averaged):
    """Moves away from the weights by a tenth of the gap."""

    @torch.no_grad()
    def on_train_batch_end(self, *_call: Any) -> None:
        for mean, now in zip(self.average.parameters(), self.net.parameters(), strict=True):
            mean.lerp_(now, -0.1)
        self.copy_buffers()


class Ramped(Averaged):
    """Sound: the average begins by copying, and follows ever more slowly over thousands of steps."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("updates", torch.zeros(()))

    @torch.no_grad()
    def on_train_batch_end(self, *_call: Any) -> None:
        self.updates += 1
        for mean, now in zip(self.average.parameters(), self.net.parameters(), strict=True):
            mean.lerp_(now, 1 - 0.9999 * (1 - math.exp(-float(self.updates) / 2000)))
        self.copy_buffers()


AVERAGED = Training(TABLE, Averaged)

for name, buggy, sound, code, module, status, says in (
    (
        "average_without_buffers",
        WithoutBuffers,
        AVERAGED,
        "average_without_buffers",
        "average.1",
        Status.FAIL,
        "and not its buffers",
    ),
    (
        "average_of_two_names_without_buffers",
        OfTwoNamesWithoutBuffers,
        Training(TABLE, OfTwoNames),
        "average_without_buffers",
        "average.0.1",
        Status.FAIL,
        "",
    ),
    (
        "average_built_anew",
        BuiltAnew,
        Training(TABLE, BuiltAnewAndWarmedUp),
        "average_starts_elsewhere",
        "average",
        Status.WARN,
        "begins with other values",
    ),
    (
        "average_of_zeros",
        BeginsWithZeros,
        Training(TABLE, StochasticAverage),
        "average_starts_elsewhere",
        "average",
        Status.WARN,
        "",
    ),
    (
        "average_takes_the_newest",
        AtOnce,
        Training(TABLE, Ramped),
        "average_follows_at_once",
        "average",
        Status.WARN,
        "takes 99.0% of",
    ),
    ("average_runs_away", RunsAway, AVERAGED, "average_moves_away", "average", Status.FAIL, "1.1 times as large"),
    ("average_without_the_head", WithoutHead, AVERAGED, "average_in_part", "average.3.weight", Status.WARN, ""),
):
    plant(name, "averaged_weights", Training(TABLE, buggy), sound, code, PYTORCH, module=module, status=status, says=says)
