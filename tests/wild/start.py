"""Reported bugs of how a model begins: the scale of its weights, and statistics that never move or begin at zero."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.evidence import Status
from tests.planted_bugs.setups import Model

from .register import FirstRun, pair_of_one_class, task_of

SEEN, CLASSES, PLANES, WIDTH = 6, 4, 4, 32
IMAGES = task_of(task_type="image_classification", image_size=[3, 8, 8], num_classes=CLASSES)
OBSERVED = task_of(
    inputs={"seen": {"axes": ["batch", SEEN]}}, outputs={"actions": {"axes": ["batch", CLASSES], "kind": "class_scores"}}
)
BOARDS = task_of(
    inputs={"planes": {"axes": ["batch", PLANES, 8, 8]}},
    outputs={"policy": {"axes": ["batch", 12], "kind": "class_scores"}},
)


class StillNormed(nn.Module):
    """An image classifier whose batch norm has momentum 0, which in PyTorch keeps the first statistics for good."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 64, CLASSES)
        self.norm = nn.BatchNorm2d(8, momentum=0.0 if wrong else 0.1)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.first(pixel_values))).flatten(1))


def unmoved_statistics(model: Any) -> float:
    """Whether the running mean is still 0 after many batches with a mean far from it."""
    model.train()
    with torch.no_grad():
        for _ in range(100):
            model(torch.randn(4, 3, 8, 8) + 5)
    return float((model.norm.running_mean == 0).all())


class ObservationNorm(nn.Module):
    """Running statistics of observations; the bug begins with a variance of 0, and an agent acts before it learns."""

    mean: Tensor
    variance: Tensor

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(SEEN))
        self.register_buffer("variance", torch.zeros(SEEN) if wrong else torch.ones(SEEN))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            mean, variance = x.mean(0), x.var(0, unbiased=False)
            self.mean = 0.9 * self.mean + 0.1 * mean.detach()
            self.variance = 0.9 * self.variance + 0.1 * variance.detach()
            return (x - mean) / (variance + 1e-5).sqrt()
        return (x - self.mean) / self.variance.sqrt()


class Agent(nn.Module):
    """A policy over normalised observations."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.norm, self.net = ObservationNorm(wrong), nn.Sequential(nn.Linear(SEEN, 16), nn.Tanh(), nn.Linear(16, CLASSES))

    def forward(self, seen: Tensor) -> Tensor:
        return self.net(self.norm(seen))


def infinite_before_training(model: Any) -> float:
    """Whether a new agent normalises an observation to infinity."""
    return float(not torch.isfinite(model.eval().norm(torch.randn(3, SEEN))).all())


class Painted(nn.Module):
    """A fully convolutional network; the bug draws its weights from the standard normal distribution."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 if i == 0 else 16, 16, 3, padding=1) for i in range(6))
        self.score = nn.Conv2d(16, CLASSES, 1)
        for layer in self.layers:
            if wrong:
                nn.init.normal_(layer.weight)
            else:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        x = image
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.score(x)


PAINTED = task_of(
    inputs={"image": {"axes": ["batch", 3, 8, 8]}},
    outputs={"pixels": {"axes": ["batch", CLASSES, 8, 8], "kind": "class_scores", "classes": 1}},
)


def growth_of_signal(model: Any) -> float:
    """By how many powers of ten a signal grows on its way through the layers, above one."""
    with torch.no_grad():
        x = first = torch.randn(2, 3, 8, 8)
        for layer in model.layers:
            x = F.relu(layer(x))
    return max(0.0, float((x.std() / first.std()).log10()) - 1)


class Tower(nn.Module):
    """A tower of residual convolutions; the bug draws weights as wide as if a kernel had one place."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.enter, self.head = nn.Conv2d(PLANES, WIDTH, 3, padding=1), nn.Linear(WIDTH, 12)
        self.tower = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(10))
        for conv in self.tower:
            inputs = WIDTH if wrong else 9 * WIDTH
            nn.init.normal_(conv.weight, std=(2 / (inputs + inputs)) ** 0.5)

    def forward(self, planes: Tensor) -> Tensor:
        hidden = self.enter(planes)
        for conv in self.tower:
            hidden = hidden + conv(hidden)
        hidden = hidden / hidden.square().mean((1, 2, 3), keepdim=True).sqrt()
        return self.head(hidden.mean((2, 3)))


def growth_in_the_tower(model: nn.Module) -> float:
    """How many times larger the tower makes its signal than ten sound residual layers do."""
    with torch.no_grad():
        start = hidden = model.enter(torch.randn(2, PLANES, 8, 8))
        for conv in model.tower:
            hidden = hidden + conv(hidden)
        return max(0.0, float(hidden.square().mean().sqrt() / start.square().mean().sqrt()) / 2**10 - 1)


add = partial(pair_of_one_class, area="start", judge=Model, draw=2)
add(
    "momentum_of_zero_keeps_first_statistics",
    "A batch norm with momentum 0, as other libraries count it, never learns its running statistics",
    "pytorch/pytorch#15298",
    "vision",
    "train_mode[statistics]",
    StillNormed,
    unmoved_statistics,
    IMAGES,
    module="norm",
    first_run=FirstRun("d13d60a", False, False, "PyTorch's own norms are not judged"),
)
add(
    "variance_begins_at_zero",
    "A running variance begins at 0, by which a policy divides that acts before it learns",
    "chainer/chainer#879",
    "policies",
    "finite_output[typical]",
    Agent,
    infinite_before_training,
    OBSERVED,
    module="norm",
    or_tests=("train_mode[statistics]",),
    first_run=FirstRun("d13d60a", True, True, "`norm`, with its forward"),
)
add(
    "weights_from_the_standard_normal",
    "Convolutions are drawn from the standard normal distribution whatever their size, and the gradients explode",
    "wkentaro/pytorch-fcn#167",
    "vision",
    "initialisation[depth]",
    Painted,
    growth_of_signal,
    PAINTED,
    status=Status.WARN,
    or_tests=("initialisation[loss]",),
    first_run=FirstRun("d13d60a", True, True, "`layers`"),
)
add(
    "fan_of_a_kernel_forgotten",
    "The weights of convolutions are drawn without the places of their kernel, so that a residual tower makes its signal ever larger",
    "LeelaChessZero/lczero-training#43",
    "policies",
    "initialisation[depth]",
    Tower,
    growth_in_the_tower,
    BOARDS,
    draw=1,
    module="tower",
    status=Status.WARN,
)
