"""Balance losses of mixtures of experts that balance nothing."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .training import CLASSES, FEATURES, TABLE, LitScores, Training, plant

EXPERTS = 4
SWITCH = "Fedus et al. 2021, Switch Transformers"


class Switched(nn.Module):
    """A layer of experts, of which each row takes the best one."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(16, EXPERTS, bias=False)
        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(EXPERTS))
        self.shares = torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        self.shares = self.router(x).softmax(-1)
        best, chosen = self.shares.max(-1)
        every = torch.stack([expert(x) for expert in self.experts], 1)
        return every[torch.arange(len(x)), chosen] * best[:, None]


class Balanced(LitScores):
    """Experts that are kept equally busy by the product of their loads and mean shares."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.layer, self.head = nn.Linear(FEATURES, 16), Switched(), nn.Linear(16, CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        x = self.into(features).tanh()
        return self.head(x + self.layer(x))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return loss + 0.05 * self.balance(self.layer.shares)

    def balance(self, shares: Tensor) -> Tensor:
        loads = F.one_hot(shares.argmax(-1), EXPERTS).to(shares).mean(0)
        return EXPERTS * (loads * shares.mean(0)).sum()


class Constant(Balanced):
    def balance(self, shares: Tensor) -> Tensor:
        loads = F.one_hot(shares.argmax(-1), EXPERTS).to(shares)
        return (loads.mean() * shares.sum(-1)).mean()


class OfChoicesOnly(Balanced):
    def balance(self, shares: Tensor) -> Tensor:
        return F.one_hot(shares.argmax(-1), EXPERTS).to(shares).mean(0).square().sum()


class WrongSign(Balanced):
    def balance(self, shares: Tensor) -> Tensor:
        return -super().balance(shares)


class ByImportance(Balanced):
    """The squared coefficient of variation of the shares."""

    def balance(self, shares: Tensor) -> Tensor:
        total = shares.sum(0)
        return total.var() / total.mean().square()


class SmallScores(Balanced):
    """A penalty on large scores of the router, row by row."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
        loss = LitScores.training_step(self, batch, batch_idx)
        return loss + 1e-2 * self.layer.router(self.into(batch["features"]).tanh()).logsumexp(-1).square().mean()


SMALL_SCORES = Training(TABLE, SmallScores)

for name, buggy, code in (
    ("balance_that_is_constant", Constant, "balance_without_gradient"),
    ("balance_of_choices_only", OfChoicesOnly, "balance_without_gradient"),
    ("balance_with_the_wrong_sign", WrongSign, "rewards_collapse"),
):
    plant(
        name,
        "training_loss[balance]",
        Training(TABLE, buggy),
        SMALL_SCORES,
        code,
        SWITCH,
        module="layer.router",
        also=("accumulation",),  # the share of an expert depends on which rows are in the batch
    )
