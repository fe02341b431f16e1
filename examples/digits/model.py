"""A small convolutional network for handwritten digits of 8x8 pixels."""

import torch
from torch import Tensor, nn


class DigitNet(nn.Module):
    """Two convolutions and a linear head; expects pixels from 0 to 16, as the dataset has them."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, kernel_size=3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, kernel_size=3, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
        )
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(8 * width, 10)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Scores ``[B, 10]`` of images ``[B, 1, 8, 8]``."""
        x = self.features(pixel_values / 16)
        return self.head(self.dropout(torch.flatten(x, 1)))


def build_model(width: int = 16) -> nn.Module:
    return DigitNet(width)
