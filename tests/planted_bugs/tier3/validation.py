"""LightningModules whose validation, by a hook or a callback, changes what is trained afterwards."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from .training import TABLE, LitScores, Training, plant

LIGHTNING = "Lightning documentation, hooks of LightningModule and Callback"


class Averaged(Callback):
    """Validates with an average of the weights, and puts the trained ones back."""

    def __init__(self) -> None:
        self.average: dict[str, Tensor] = {}
        self.trained: dict[str, Tensor] = {}

    def on_train_batch_end(self, _trainer: Any, module: lightning.LightningModule, *_batch: Any) -> None:
        for name, value in module.net.state_dict().items():
            before = self.average.get(name, value.clone())
            self.average[name] = torch.lerp(before, value, 0.1) if value.is_floating_point() else value.clone()

    def on_validation_start(self, _trainer: Any, module: lightning.LightningModule) -> None:
        self.trained = {name: value.clone() for name, value in module.net.state_dict().items()}
        module.net.load_state_dict(self.average)

    def on_validation_end(self, _trainer: Any, module: lightning.LightningModule) -> None:
        module.net.load_state_dict(self.trained)


class AveragedForGood(Averaged):
    def on_validation_end(self, _trainer: Any, module: lightning.LightningModule) -> None:
        pass


class Validated(LitScores):
    """Sound: dropout, a batch norm, and a validation with averaged weights."""

    callback: type[Callback] = Averaged

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.5)

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(self.net(self.drop(features)))

    def validation_step(self, batch: dict[str, Tensor], _index: int) -> None:
        self.log("val_loss", self.loss(self(batch["features"]), batch["labels"]))

    def configure_callbacks(self) -> list[Callback]:
        return [self.callback()]


class WeightsNotPutBack(Validated):
    callback = AveragedForGood


class DropoutOffForGood(Validated):
    def on_validation_start(self) -> None:
        self.drop.p = 0.0


class FrozenForValidation(Validated):
    def on_validation_start(self) -> None:
        self.net.hidden.requires_grad_(False)


class ValidatedInTrainMode(Validated):
    """Several answers under dropout, for which the whole model is in train mode."""

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        self.train()
        super().validation_step(batch, index)


class StaysInEvalMode(Validated):
    def on_validation_model_train(self) -> None:
        pass


SOUND = Training(TABLE, Validated)

for build, code, module in (
    (WeightsNotPutBack, "validation_changes_weights", "net.hidden.weight"),
    (DropoutOffForGood, "validation_changes_training", "drop"),
    (FrozenForValidation, "validation_freezes", "net.hidden"),
    (ValidatedInTrainMode, "validation_changes_statistics", "norm"),
    (StaysInEvalMode, "validation_leaves_mode", ""),
):
    plant(build.__name__, "validation_pass", Training(TABLE, build), SOUND, code, LIGHTNING, module=module)
