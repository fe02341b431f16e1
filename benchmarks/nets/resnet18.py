"""A plain ResNet-18 for images of 224 pixels a side (He et al., 2015)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

CONFIG = {"task_type": "image_classification", "image_size": [3, 224, 224], "num_classes": 10}


class Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet18(nn.Module):
    """A stem, four stages of two blocks, and a linear layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        widths = (64, 64, 128, 256, 512)
        stages = [
            nn.Sequential(Block(before, width, 1 if width == 64 else 2), Block(width, width, 1))
            for before, width in pairwise(widths)
        ]
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(512, classes)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(pixel_values)).mean((2, 3)))


def build_model() -> nn.Module:
    return ResNet18(10)
