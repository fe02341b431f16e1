"""Gradients that are clipped at the wrong place, or in part."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from harness.evidence import Status

from ..register import PYTORCH
from .training import LIGHTNING, TABLE, LitScores, ManualScores, Training, plant

LIMIT = 0.1


class Clips(ManualScores):
    """Clips between backward and step."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(self(batch["features"]), batch["labels"]))
        clip_grad_norm_(self.parameters(), LIMIT)
        optimizer.step()


class ClipsAfterTheStep(Clips):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(self(batch["features"]), batch["labels"]))
        optimizer.step()
        clip_grad_norm_(self.parameters(), LIMIT)


class ClipsNothing(Clips):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        clip_grad_norm_(self.parameters(), LIMIT)
        self.manual_backward(self.loss(self(batch["features"]), batch["labels"]))
        optimizer.step()


class ClipsTheHead(Clips):
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(self(batch["features"]), batch["labels"]))
        clip_grad_norm_(self.net.head.parameters(), LIMIT)
        optimizer.step()


class ClipsBothParts(ClipsTheHead):
    """Sound: clips each part to its own limit."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(self(batch["features"]), batch["labels"]))
        for part in (self.net.hidden, self.net.head):
            clip_grad_norm_(part.parameters(), LIMIT)
        optimizer.step()


class ClipsBetweenBatches(Clips):
    """A step after every second batch, with the gradients of the first one clipped only."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        self.manual_backward(self.loss(self(batch["features"]), batch["labels"]) / 2)
        if batch_idx % 2 == 0:
            clip_grad_norm_(self.parameters(), LIMIT)
        else:
            optimizer.step()
            optimizer.zero_grad()


class ClipsAtTheStep(Clips):
    """Sound: a step after every second batch; the norm is measured at the first one, too."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        self.manual_backward(self.loss(self(batch["features"]), batch["labels"]) / 2)
        clip_grad_norm_(self.parameters(), float("inf") if batch_idx % 2 == 0 else LIMIT)
        if batch_idx % 2 == 1:
            optimizer.step()
            optimizer.zero_grad()


class Scales(Clips):
    """Scales its loss, as for float16, and clips after that is taken back."""

    def __init__(self) -> None:
        super().__init__()
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)

    def unscale(self, optimizer: Any) -> None:
        self.scaler.unscale_(optimizer)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.scaler.scale(self.loss(self(batch["features"]), batch["labels"])))
        self.unscale(optimizer)
        clip_grad_norm_(self.parameters(), LIMIT)
        self.scaler.step(optimizer)
        self.scaler.update()


class ClipsScaled(Scales):
    def unscale(self, optimizer: Any) -> None:
        pass


class ClipsInTheTrainingStep(LitScores):
    """Clips before Lightning calls backward."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        if batch_idx:
            clip_grad_norm_(self.parameters(), LIMIT)
        return loss


class ClipsInTheHook(LitScores):
    def configure_gradient_clipping(self, optimizer: Any, *_limits: Any, **_more: Any) -> None:
        self.clip_gradients(optimizer, gradient_clip_val=LIMIT, gradient_clip_algorithm="norm")


CLIPS = Training(TABLE, Clips)

for name, buggy, sound, code, source, more in (
    ("clipped_after_the_step", ClipsAfterTheStep, CLIPS, "clipped_too_late", PYTORCH, {}),
    ("clipped_before_backward", ClipsNothing, CLIPS, "nothing_to_clip", PYTORCH, {}),
    ("clipped_in_the_training_step", ClipsInTheTrainingStep, Training(TABLE, ClipsInTheHook), "clipped_too_late", LIGHTNING, {}),
    ("clipped_before_unscaling", ClipsScaled, Training(TABLE, Scales), "clipped_before_unscaling", PYTORCH, {}),
    (
        "clipped_between_batches",
        ClipsBetweenBatches,
        Training(TABLE, ClipsAtTheStep),
        "changed_after_clipping",
        PYTORCH,
        {"status": Status.WARN},
    ),
    (
        "head_clipped_only",
        ClipsTheHead,
        Training(TABLE, ClipsBothParts),
        "clipped_in_part",
        PYTORCH,
        {"status": Status.WARN, "module": "net.hidden.weight", "says": "not that of `net.hidden.weight` (and 1 other parameter)"},
    ),
):
    plant(name, "gradient_clipping", Training(TABLE, buggy), sound, code, source, **more)
