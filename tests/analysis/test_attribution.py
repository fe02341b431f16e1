"""Unusual but sound gradients are left alone, and shares add up to one."""

from __future__ import annotations

import pytest
import torch
from planted_bugs.setups import Factory
from planted_bugs.tasks import CLASSES, FEATURES, TABLE
from planted_bugs.tester import SEEDS, red
from planted_bugs.tier2.analysed import judge_all, study_of
from planted_bugs.tier2.attribution import Swish, network
from planted_bugs.tier2.parts import WIDTH
from torch import Tensor, nn

FAMILY = ("attribution",)


class Codebook(nn.Module):
    """Nearest codes with a straight-through gradient (van den Oord et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn(16, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        nearest = self.codes[torch.cdist(x, self.codes).argmin(-1)]
        return x + (nearest - x).detach()


class Experts(nn.Module):
    """Of four experts the best is taken, and weighted with how good it is."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(FEATURES, 4)
        self.experts = nn.ModuleList(nn.Linear(FEATURES, CLASSES) for _ in range(4))

    def forward(self, features: Tensor) -> Tensor:
        weight, chosen = self.gate(features).softmax(-1).max(-1)
        outputs = torch.stack([expert(features) for expert in self.experts], 1)
        return weight[:, None] * outputs[torch.arange(len(features)), chosen]


class OnFrozen(nn.Module):
    """A trained backbone that is used as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(FEATURES, WIDTH).requires_grad_(False)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.backbone(features).tanh()
        return self.head(x)


def codes() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, WIDTH), Codebook(), nn.Linear(WIDTH, CLASSES))


def kinks() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, CLASSES))


@pytest.mark.parametrize("sound", [codes, Experts, OnFrozen, kinks])
@pytest.mark.parametrize("seed", SEEDS)
def test_unusual_but_sound(sound: Factory, seed: int) -> None:
    assert red(judge_all(study_of(sound, TABLE, seed), FAMILY)) == {}


def test_shares_add_up_to_one() -> None:
    found = judge_all(study_of(network(Swish), TABLE), FAMILY)["attribution"]
    (shares,) = found.details["shares"].values()
    assert len(shares) == FEATURES
    assert sum(shares) == pytest.approx(1, abs=1e-3)
