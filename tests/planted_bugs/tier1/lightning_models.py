"""Models that are LightningModules; imported only when one is built, as Lightning takes seconds to import."""

from __future__ import annotations

import lightning
import torch
from torch import Tensor

from .tabular import Perceptron


class LightningClassifier(lightning.LightningModule):
    """A perceptron with its training step."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Perceptron()

    def forward(self, features: Tensor) -> Tensor:
        return self.net(features)

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])


class OutputsCollected(LightningClassifier):
    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[Tensor] = []

    def forward(self, features: Tensor) -> Tensor:
        logits = super().forward(features)
        self.outputs.append(logits)
        return logits


class NetInABox(LightningClassifier):
    def __init__(self) -> None:
        super().__init__()
        del self.net
        self.nets = [Perceptron()]

    def forward(self, features: Tensor) -> Tensor:
        return self.nets[0](features)


class WithAFactor(LightningClassifier):
    """The same with a setting that its checkpoints hold."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor
        self.save_hyperparameters()

    def forward(self, features: Tensor) -> Tensor:
        return self.factor * super().forward(features)


class FactorNotSaved(LightningClassifier):
    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, features: Tensor) -> Tensor:
        return self.factor * super().forward(features)
