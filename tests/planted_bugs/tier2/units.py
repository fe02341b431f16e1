"""Layers whose units answer to nothing, and their twins."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.evidence import Status

from ..tasks import CLASSES, FEATURES, IMAGES, TABLE
from .analysed import plant

Function = Callable[[Tensor], Tensor]


class Perceptron(nn.Module):
    """Three layers; the middle one's bias can be set to a constant, from a unit on."""

    def __init__(self, function: Function = F.relu, bias: float | None = None, start: int = 0) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, 64)
        self.middle = nn.Linear(64, 64)
        self.head = nn.Linear(64, CLASSES)
        self.function = function
        if bias is not None:
            nn.init.constant_(self.middle.bias[start:], bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.function(self.middle(F.gelu(self.first(features)))))


class Pictures(nn.Module):
    """Convolutions; the bug is a norm whose weights were all set to zero and its bias below."""

    def __init__(self, silent: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 24, 3, padding=1)
        self.norm = nn.BatchNorm2d(24)
        self.act = nn.ReLU(inplace=True)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(24, 2, 1), nn.ReLU(), nn.Conv2d(2, 24, 1), nn.Sigmoid())
        self.head = nn.Linear(24, CLASSES)
        if silent:
            nn.init.zeros_(self.norm.weight)
            nn.init.constant_(self.norm.bias, -0.1)

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.act(self.norm(self.conv(pixel_values)))
        return self.head((x * self.gate(x)).mean((2, 3)))


class Narrow(nn.Module):
    """A bottleneck of one ReLU, which chance leaves silent in about half of all instances."""

    def __init__(self) -> None:
        super().__init__()
        narrow = nn.Linear(32, 1)
        nn.init.normal_(narrow.bias, std=30.0)
        self.body = nn.Sequential(nn.Linear(FEATURES, 32), nn.Tanh(), narrow, nn.ReLU(), nn.Linear(1, 32))
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(features) + self.body(features)[:, :CLASSES]


class Deep(nn.Module):
    """Thirty ReLU layers without a norm: half of the units are silent for good, as chance has it."""

    def __init__(self) -> None:
        super().__init__()
        widths = [FEATURES, *[64] * 30]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.head = nn.Linear(64, CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        for layer in self.layers:
            features = torch.relu(layer(features))
        return self.head(features)


class Opening(nn.Module):
    """A residual branch that starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, 32)
        last = nn.Linear(32, 32)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.branch = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), last)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        x = self.first(features)
        return self.head(F.relu(x + self.branch(x)))


plant(
    "bias_far_below",
    TABLE,
    partial(Perceptron, bias=-30.0),
    Perceptron,
    "dead_units[dead]",
    "all_units_flat",
    "middle",
    says="all 64 units",
)
plant(
    "bias_far_below_in_most",
    TABLE,
    partial(Perceptron, bias=-30.0, start=8),
    Perceptron,
    "dead_units[dead]",
    "units_flat",
    "middle",
    status=Status.WARN,
    says="56 of 64 units",
)
plant(
    "gelu_far_below",
    TABLE,
    partial(Perceptron, F.gelu, bias=-30.0),
    partial(Perceptron, F.gelu),
    "dead_units[dead]",
    "all_units_flat",
    "middle",
    says="in the gelu of `(model)` all 64 units",
)
plant(
    "norm_silences_channels",
    IMAGES,
    partial(Pictures, True),
    partial(Pictures, False),
    "dead_units[dead]",
    "all_units_flat",
    "norm",
)
plant(
    "gate_shut",
    TABLE,
    partial(Perceptron, torch.sigmoid, bias=-40.0),
    partial(Perceptron, torch.sigmoid),
    "dead_units[saturated]",
    "all_units_flat",
    "middle",
)
plant(
    "most_gates_open",
    TABLE,
    partial(Perceptron, torch.tanh, bias=40.0, start=4),
    partial(Perceptron, torch.tanh),
    "dead_units[saturated]",
    "units_flat",
    "middle",
    status=Status.WARN,
    says="60 of 64 units",
)
