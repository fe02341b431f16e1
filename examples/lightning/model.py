"""A LightningModule as people write them: its own loss, optimizer and schedule, and batches as ``x, y``."""

from __future__ import annotations

from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DigitClassifier(lightning.LightningModule):
    """A small convolutional network for handwritten digits, ``[B, 1, 8, 8]`` to ``[B, 10]``."""

    def __init__(self, width: int = 24, rate: float = 0.05) -> None:
        super().__init__()
        self.rate = rate
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.GroupNorm(4, width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.GroupNorm(4, 2 * width),
            nn.ReLU(),
        )
        self.head = nn.Linear(2 * width * 16, 10)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(self.features(pixel_values / 16).flatten(1))

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _index: int) -> None:
        images, labels = batch
        self.log("val_error", (self(images).argmax(-1) != labels).float().mean())

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.rate, momentum=0.9, nesterov=True)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)}


def build_model() -> DigitClassifier:
    return DigitClassifier()
