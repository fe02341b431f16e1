"""Gradients that are not those of the output, and their twins."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.evidence import Status

from .pairs import (
    CLASSES,
    FEATURES,
    IMAGES,
    TABLE,
    TEXT,
    Factory,
    Pair,
    assert_found,
    assert_twin_passes,
    judge_all,
    red,
    study_of,
)
from .parts import WIDTH, Attention, Encoder, Patches

FAMILY = ("attribution",)


class Residual(Attention):
    """An attention with a residual connection of its own, which must not be cut."""

    def __init__(self, cut: bool) -> None:
        super().__init__()
        self.cut = cut

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        return (x.detach() if self.cut else x) + super().forward(x, visible)


class Swish(torch.autograd.Function):
    """x sigmoid(x), with a backward by hand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate = x.sigmoid()
        return grad * gate * (1 + x * (1 - gate))


class HalfSwish(Swish):
    """Forgets that the gate depends on x too."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * x.sigmoid()


class Activation(nn.Module):
    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function.apply(x)


def network(function: type[torch.autograd.Function]) -> Factory:
    return lambda: nn.Sequential(nn.Linear(FEATURES, WIDTH), Activation(function), nn.Linear(WIDTH, CLASSES))


class Normalised(nn.Module):
    """Features made comparable by their own mean and deviation; the gradient may not be cut on the way."""

    def __init__(self, cut: bool) -> None:
        super().__init__()
        self.cut = cut

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.cut):
            return F.layer_norm(x, x.shape[-1:])


def normalised(cut: bool) -> Factory:
    return lambda: nn.Sequential(Normalised(cut), nn.Linear(FEATURES, WIDTH), nn.Tanh(), nn.Linear(WIDTH, CLASSES))


def cut() -> nn.Module:
    return Encoder(Attention(), Residual(cut=True))


def uncut() -> nn.Module:
    return Encoder(Attention(), Residual(cut=False))


def cut_patches() -> nn.Module:
    return Patches(Residual(cut=True), Attention())


def uncut_patches() -> nn.Module:
    return Patches(Residual(cut=False), Attention())


WRONG = "the input's gradients are not those of the output"

PAIRS = [
    Pair("skip connection cut", TEXT, cut, uncut, "attribution", WRONG, "attentions.1"),
    Pair("skip connection cut in a ViT", IMAGES, cut_patches, uncut_patches, "attribution", WRONG, "attentions.0"),
    Pair("backward by hand", TABLE, network(HalfSwish), network(Swish), "attribution", WRONG, "1"),
    Pair(
        "normalised without gradient",
        TABLE,
        normalised(cut=True),
        normalised(cut=False),
        "attribution",
        "no gradient reaches the input",
        "0",
        status=Status.WARN,
    ),
]


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_bug_is_found(pair: Pair) -> None:
    assert_found(pair, FAMILY)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_twin_passes(pair: Pair) -> None:
    assert_twin_passes(pair, FAMILY)


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
@pytest.mark.parametrize("seed", range(3))
def test_unusual_but_sound(sound: Factory, seed: int) -> None:
    assert red(judge_all(study_of(sound, TABLE, seed), FAMILY)) == {}


def test_shares_add_up_to_one() -> None:
    found = judge_all(study_of(network(Swish), TABLE), FAMILY)["attribution"]
    (shares,) = found.details["shares"].values()
    assert len(shares) == FEATURES
    assert sum(shares) == pytest.approx(1, abs=1e-3)
