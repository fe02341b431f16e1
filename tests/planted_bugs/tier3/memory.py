"""Trainings that keep something of every step, and such as keep what they need."""

from __future__ import annotations

from collections import deque
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from harness.evidence import WHOLE, Status

from .training import FEATURES, TABLE, LitScores, Scores, Training, plant

FAQ = "PyTorch documentation, FAQ: my model reports out of memory; don't accumulate history across your training loop"

HISTORY: list[Tensor] = []


class KeepsWhatItNeeds(LitScores):
    """Sound: numbers, averages, limited and cleared collections, a cache that fills once, a hook that is removed."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []
        self.curve: list[Tensor] = []
        self.recent: deque[Tensor] = deque(maxlen=100)
        self.of_epoch: list[Tensor] = []
        self.replay: list[Tensor | None] = []
        self.place = 0
        self.tables: dict[tuple[int, ...], Tensor] = {}
        self.seen: list[Tensor] = []
        self.register_buffer("average", torch.zeros(3))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        features = batch["features"]
        table = self.tables.setdefault(tuple(features.shape), torch.ones_like(features))
        handle = self.net.hidden.register_forward_hook(lambda *_call: None)
        logits = self(features * table)
        handle.remove()
        loss = self.loss(logits, batch["labels"])
        self.last_loss = loss
        self.losses.append(loss.item())
        self.curve.append(loss.detach())
        self.recent.append(logits.detach())
        self.of_epoch.append(logits.detach())
        self.average = 0.9 * self.average + 0.1 * logits.detach().mean(0)
        if len(self.replay) < 1000:
            self.replay.append(None)
        self.replay[self.place] = features.clone()
        self.place = (self.place + 1) % 1000
        self.seen = [*self.seen, features.clone()][-500:]
        return loss

    def validation_step(self, batch: dict[str, Tensor], _index: int) -> None:
        self.of_epoch.append(self(batch["features"]))

    def on_train_epoch_end(self) -> None:
        self.of_epoch.clear()


class SumsLosses(LitScores):
    total: Any = 0.0

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.total += loss
        return loss


class KeepsLosses(LitScores):
    def __init__(self) -> None:
        super().__init__()
        self.losses: list[Tensor] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.losses.append(loss)
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("mean_loss", torch.stack(self.losses).mean())


class AveragesLossWithGraph(LitScores):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("smoothed", torch.zeros(()))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.smoothed = 0.9 * self.smoothed + 0.1 * loss
        return loss


class KeepsLossesOfFile(LitScores):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        HISTORY.append(loss)
        return loss


class Curve(Callback):
    def __init__(self) -> None:
        self.points: dict[int, Tensor] = {}

    def on_train_batch_end(self, trainer: Any, module: lightning.LightningModule, *_batch: Any) -> None:
        self.points[trainer.global_step] = module.last_loss


class CallbackKeepsLosses(LitScores):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.last_loss = super().training_step(batch, batch_idx)
        return self.last_loss

    def configure_callbacks(self) -> list[Callback]:
        return [Curve()]


class Meter:
    def __init__(self) -> None:
        self.sum: Any = 0.0
        self.count = 0

    def update(self, value: Any) -> None:
        self.sum = self.sum + value
        self.count += 1


class MetersWithGraph(LitScores):
    def __init__(self) -> None:
        super().__init__()
        self.meter = Meter()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.meter.update(loss)
        return loss


class HookEachStep(LitScores):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.net.hidden.register_forward_hook(lambda *_call: None)
        return super().training_step(batch, batch_idx)


class WeightHookEachStep(LitScores):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.net.head.weight.register_hook(lambda gradient: gradient)
        return super().training_step(batch, batch_idx)


class KeepsOutputs(LitScores):
    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[Tensor] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logits = self(batch["features"])
        self.outputs.append(logits.detach())
        return self.loss(logits, batch["labels"])


class KeepsOutputsOfValidation(LitScores):
    def __init__(self) -> None:
        super().__init__()
        self.predicted: list[dict[str, Tensor]] = []

    def validation_step(self, batch: dict[str, Tensor], _index: int) -> None:
        self.predicted.append({"logits": self(batch["features"])})


class GrowingQueue(LitScores):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("queue", torch.zeros(1, FEATURES))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.queue = torch.cat([self.queue, batch["features"]])
        return super().training_step(batch, batch_idx)


class CachesActivations(Scores):
    """A plain model, whose forward keeps its hidden states for a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[Tensor] = []

    def forward(self, features: Tensor) -> Tensor:
        hidden = nn.functional.gelu(self.hidden(features))
        self.states.append(hidden)
        return self.head(hidden)


class KeepsLastActivation(Scores):
    """Sound: only the last one."""

    def forward(self, features: Tensor) -> Tensor:
        self.state = nn.functional.gelu(self.hidden(features))
        return self.head(self.state)


SOUND = Training(TABLE, KeepsWhatItNeeds)

for build, code, module, line in (
    (SumsLosses, "keeps_graphs", WHOLE, "self.total += loss"),
    (KeepsLosses, "keeps_graphs", WHOLE, "self.losses.append(loss)"),
    (AveragesLossWithGraph, "keeps_graphs", WHOLE, "self.smoothed = 0.9"),
    (KeepsLossesOfFile, "keeps_graphs", "", "HISTORY.append"),
    (CallbackKeepsLosses, "keeps_graphs", "", "self.points[trainer.global_step]"),
    (MetersWithGraph, "keeps_graphs", WHOLE, "self.sum = self.sum + value"),
    (HookEachStep, "adds_hooks", "net.hidden", "register_forward_hook"),
    (WeightHookEachStep, "adds_hooks", "net.head", "register_hook"),
):
    plant(build.__name__, "memory_growth", Training(TABLE, build), SOUND, code, FAQ, module=module, line=line)

for build, line in (
    (KeepsOutputs, "self.outputs.append"),
    (KeepsOutputsOfValidation, "self.predicted.append"),
    (GrowingQueue, "self.queue = torch.cat"),
):
    plant(
        build.__name__,
        "memory_growth",
        Training(TABLE, build),
        SOUND,
        "keeps_tensors",
        "Lightning documentation, migration of training_epoch_end: clear what was collected",
        module=WHOLE,
        status=Status.WARN,
        line=line,
    )

plant(
    CachesActivations.__name__,
    "memory_growth",
    Training(TABLE, CachesActivations),
    Training(TABLE, KeepsLastActivation),
    "keeps_graphs",
    FAQ,
    module=WHOLE,
    line="self.states.append",
)
