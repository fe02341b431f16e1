"""Parameter groups: weight decay and learning rates that go to others than they are meant for."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.evidence import Status

from ..register import PYTORCH
from .training import TABLE, LitScores, Scores, Training, plant


class ScaleNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) * self.gain * x.shape[-1] ** 0.5


class Blocks(Scores):
    """A perceptron of twelve residual blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(12))
        self.norms = nn.ModuleList(ScaleNorm(16) for _ in range(12))

    def forward(self, features: Tensor) -> Tensor:
        x = F.gelu(self.hidden(features))
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = x + block(norm(x))
        return self.head(x)


class LitBlocks(LitScores):
    def __init__(self) -> None:
        super().__init__()
        self.net = Blocks()

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.parameters())}]

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.groups(), lr=1e-3)


class DecayOfMatrices(LitBlocks):
    def spares(self, name: str, parameter: nn.Parameter) -> bool:
        return parameter.ndim < 2

    def groups(self) -> list[dict[str, Any]]:
        spared = {name: self.spares(name, parameter) for name, parameter in self.named_parameters()}
        return [
            {"params": [p for name, p in self.named_parameters() if not spared[name]], "weight_decay": 0.1},
            {"params": [p for name, p in self.named_parameters() if spared[name]], "weight_decay": 0.0},
        ]


class DecayByName(DecayOfMatrices):
    def spares(self, name: str, parameter: nn.Parameter) -> bool:
        return name.endswith("bias")


class NoneSpared(DecayOfMatrices):
    def spares(self, name: str, parameter: nn.Parameter) -> bool:
        return name in ("bias", "gain")


class SomeBlocksSpared(DecayOfMatrices):
    def spares(self, name: str, parameter: nn.Parameter) -> bool:
        return parameter.ndim < 2 or "blocks.1" in name


class DecayOfAll(DecayOfMatrices):
    def groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.parameters()), "weight_decay": 0.1}]


class RatesByBlock(LitBlocks):
    """Each block learns a little faster than the one before it."""

    def block_of(self, name: str) -> int:
        return int(name.split(".")[2]) if name.startswith(("net.blocks", "net.norms")) else 12

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": [p], "lr": 1e-3 * 0.8 ** (12 - self.block_of(name))} for name, p in self.named_parameters()]


class RatesByPrefix(RatesByBlock):
    def block_of(self, name: str) -> int:
        starts = [number for number in range(12) if name.startswith((f"net.blocks.{number}", f"net.norms.{number}"))]
        return starts[0] if starts else 12


class TwoRates(LitBlocks):
    """A head that learns faster than the rest, under a warm-up."""

    def groups(self) -> list[dict[str, Any]]:
        rest = [p for name, p in self.named_parameters() if "head" not in name]
        return [{"params": rest, "lr": 1e-4}, {"params": self.net.head.parameters(), "lr": 1e-2}]

    def schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 20))

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.schedule(optimizer), "interval": "step"}}


class OneCycleForAll(TwoRates):
    def schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=100)


class FirstGroupByHand(TwoRates):
    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.groups(), lr=1e-3)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.param_groups[0]["lr"] = 1e-4 * min(1.0, (self.trainer.global_step + 1) / 20)


class FactorInTheGroup(TwoRates):
    """Groups with a factor on the rate, which the warm-up applies."""

    def groups(self) -> list[dict[str, Any]]:
        groups = super().groups()
        for group, factor in zip(groups, (0.1, 1.0), strict=True):
            group.pop("lr")
            group["lr_scale"] = factor
        return groups

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.groups(), lr=1e-3)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * group["lr_scale"]


class FactorForNobody(FactorInTheGroup):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        pass


SPARED = Training(TABLE, DecayOfMatrices)
APART = Training(TABLE, TwoRates)
WARNS: dict[str, Any] = {"status": Status.WARN}

plant(
    "norm_decayed_where_biases_are_spared",
    "parameter_groups[decay]",
    Training(TABLE, DecayByName),
    SPARED,
    "decay_misses_its_kind",
    PYTORCH,
    module="net.norms.0.gain",
    says="(and 11 other parameters) has weight decay, the scale of a norm",
    **WARNS,
)
plant(
    "blocks_spared_by_a_part_of_their_name",
    "parameter_groups[decay]",
    Training(TABLE, SomeBlocksSpared),
    SPARED,
    "blocks_differ",
    PYTORCH,
    module="net.blocks.1.weight",
    **WARNS,
)
plant(
    "group_of_spared_parameters_is_empty",
    "parameter_groups[decay]",
    Training(TABLE, NoneSpared),
    SPARED,
    "empty_group",
    PYTORCH,
    module="net.hidden.bias",
    says="the group without weight decay is empty",
    **WARNS,
)
plant(
    "strong_decay_of_all",
    "parameter_groups[decay]",
    Training(TABLE, DecayOfAll),
    SPARED,
    "norms_decayed",
    PYTORCH,
    module="net.norms.0.gain",
    says="weight decay 0.1 pulls the scales of norms towards 0",
    **WARNS,
)
plant(
    "rates_by_prefix_of_a_block",
    "parameter_groups[rates]",
    Training(TABLE, RatesByPrefix),
    Training(TABLE, RatesByBlock),
    "block_rates_out_of_order",
    PYTORCH,
    module="net.blocks.10.weight",
    **WARNS,
)
plant(
    "one_cycle_for_all_groups",
    "parameter_groups[rates]",
    Training(TABLE, OneCycleForAll),
    APART,
    "rates_overwritten",
    PYTORCH,
    module="net.hidden.weight",
    **WARNS,
)
plant(
    "schedule_of_the_first_group",
    "parameter_groups[rates]",
    Training(TABLE, FirstGroupByHand),
    APART,
    "schedule_on_part",
    PYTORCH,
    module="net.head.weight",
    **WARNS,
)
plant(
    "factor_that_nobody_applies",
    "parameter_groups[rates]",
    Training(TABLE, FactorForNobody),
    Training(TABLE, FactorInTheGroup),
    "rate_factor_unused",
    PYTORCH,
    module="net.hidden.weight",
    **WARNS,
)
