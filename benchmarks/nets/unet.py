"""A U-Net (Ronneberger et al., 2015) whose last map is pooled, as an image classifier."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

CONFIG = {"task_type": "image_classification", "image_size": [3, 64, 64], "num_classes": 5}


def double_convolution(channels: int, width: int) -> nn.Sequential:
    """Two convolutions with BatchNorm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """Four steps down, four up, each joined with the map of its own size."""

    def __init__(self, classes: int, width: int = 64) -> None:
        super().__init__()
        widths = [width * 2**step for step in range(5)]
        self.first = double_convolution(3, width)
        self.down = nn.ModuleList(double_convolution(a, b) for a, b in pairwise(widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in reversed(list(pairwise(widths))))
        self.join = nn.ModuleList(double_convolution(b, a) for a, b in reversed(list(pairwise(widths))))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, pixel_values: Tensor) -> Tensor:
        maps = [self.first(pixel_values)]
        for down in self.down:
            maps.append(down(nn.functional.max_pool2d(maps[-1], 2)))
        x = maps.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat((maps.pop(), up(x)), 1))
        return self.head(x).mean((2, 3))


def build_model() -> nn.Module:
    return UNet(5)
