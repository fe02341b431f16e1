"""Reported bugs of the scale at which signals and gradients start."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from harness.evidence import Status
from tests.planted_bugs.setups import Model

from .register import task_of, wild

PLANES, WIDTH = 4, 32
BOARDS = task_of(
    inputs={"planes": {"axes": ["batch", PLANES, 8, 8]}},
    outputs={"policy": {"axes": ["batch", 12], "kind": "class_scores"}},
)


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


wild(
    "fan_of_a_kernel_forgotten",
    title="The weights of convolutions are drawn without the places of their kernel, so that a residual tower makes its signal ever larger",
    report="LeelaChessZero/lczero-training#43",
    area="start",
    field="policies",
    test="initialisation[depth]",
    setup=partial(Model, BOARDS),
    buggy=partial(Tower, True),
    sound=Tower,
    wrong=growth_in_the_tower,
    module="tower",
    status=Status.WARN,
    drawn_after=True,
)
