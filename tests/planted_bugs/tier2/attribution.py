"""Gradients that are not those of the output, and their twins."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.evidence import Status

from ..setups import Factory
from ..tasks import CLASSES, FEATURES, IMAGES, TABLE, TEXT
from .analysed import plant
from .parts import WIDTH, Attention, Encoder, Patches


class Residual(Attention):
    """An attention with its own residual connection, which must not be cut."""

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


WRONG = "gradient_misses_change"

plant("skip connection cut", TEXT, cut, uncut, "attribution", WRONG, "attentions.1", status=Status.WARN)
plant(
    "skip connection cut in a ViT", IMAGES, cut_patches, uncut_patches, "attribution", WRONG, "attentions.0", status=Status.WARN
)
plant("backward by hand", TABLE, network(HalfSwish), network(Swish), "attribution", WRONG, "1")
plant(
    "normalised without gradient",
    TABLE,
    normalised(cut=True),
    normalised(cut=False),
    "attribution",
    "no_gradient",
    "0",
    status=Status.WARN,
)
