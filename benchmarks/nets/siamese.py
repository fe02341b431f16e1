"""The siamese net of Koch et al. (2015): are two drawings, given as two channels, of the same letter?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

CONFIG = {"task_type": "image_classification", "image_size": [2, 105, 105], "num_classes": 2}


class Siamese(nn.Module):
    """One tower for both drawings, and a linear layer over the distance of what it makes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(
            nn.Conv2d(1, 64, 10),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 7),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(128, 128, 4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(128, 256, 4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(9216, 4096),
            nn.Sigmoid(),
        )
        self.head = nn.Linear(4096, 2)

    def forward(self, pixel_values: Tensor) -> Tensor:
        first, second = (self.tower(pixel_values[:, channel : channel + 1]) for channel in (0, 1))
        return self.head(torch.abs(first - second))


def build_model() -> nn.Module:
    return Siamese()
