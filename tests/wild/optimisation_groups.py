"""Reported bugs of parameter groups: weight decay and learning rates that go to others than they are meant for."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.evidence import Status
from tests.planted_bugs.tier3.training import Training

from .register import task_of, wild

CODES, TAGS, PIXELS, CLASSES = 29, 5, 8, 4
TAGGED = task_of(task_type="token_classification", vocab_size=CODES, max_seq_len=12, num_classes=TAGS)
IMAGES = task_of(task_type="image_classification", image_size=[3, PIXELS, PIXELS], num_classes=CLASSES)


class GainNorm(nn.Module):
    """Root mean square normalisation with a gain, not derived from any norm of PyTorch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x * x.square().mean(-1, keepdim=True).add(1e-6).rsqrt()


class DecayedTagger(lightning.LightningModule):
    """A tagger whose optimizer spares biases and norms; the bug knows norms by one class."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.tokens = nn.Embedding(CODES, 16)
        self.into = nn.ModuleList(GainNorm(16) for _ in range(2))
        self.mix = nn.ModuleList(nn.GRU(16, 16, batch_first=True) for _ in range(2))
        self.head = nn.Linear(16, TAGS)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.tokens(input_ids)
        for into, mix in zip(self.into, self.mix, strict=True):
            x = x + mix(into(x))[0]
        return self.head(x)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch["input_ids"]).transpose(1, 2), batch["labels"], ignore_index=-100)

    def configure_optimizers(self) -> Any:
        norms = (nn.LayerNorm,) if self.wrong else (nn.LayerNorm, GainNorm)
        spared = {id(p) for module in self.modules() if isinstance(module, norms) for p in module.parameters()}
        spared |= {id(p) for name, p in self.named_parameters() if "bias" in name}
        return torch.optim.AdamW(
            [
                {"params": [p for p in self.parameters() if id(p) not in spared], "weight_decay": 0.1},
                {"params": [p for p in self.parameters() if id(p) in spared], "weight_decay": 0.0},
            ],
            lr=3e-3,
        )


def decayed_gains(model: nn.Module) -> float:
    """How many gains of norms the optimizer decays."""
    groups = model.configure_optimizers().param_groups  # type: ignore[operator]
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    return float(sum(id(module.gain) in decayed for module in model.modules() if isinstance(module, GainNorm)))


class Depths(lightning.LightningModule):
    """An encoder that is pretrained, and a decoder that is not and learns ten times as fast, under one cycle for both."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.decoder = nn.Linear(32, CLASSES)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.decoder(self.encoder(pixel_values))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch["pixel_values"]), batch["labels"])

    def configure_optimizers(self) -> Any:
        rates = [1e-3, 1e-2]
        groups = [{"params": self.encoder.parameters(), "lr": rates[0]}, {"params": self.decoder.parameters(), "lr": rates[1]}]
        optimizer = torch.optim.AdamW(groups)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=max(rates) if self.wrong else rates, total_steps=200)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}


def lost_ratio(model: nn.Module) -> float:
    """How much of the factor between the two rates is lost after 20 steps."""
    configured = model.configure_optimizers()  # type: ignore[operator]
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    for _ in range(20):
        optimizer.step()
        schedule.step()
    encoder, decoder = (group["lr"] for group in optimizer.param_groups)
    return abs(1 - decoder / encoder / 10)


class FineTuned(Depths):
    """An image classifier whose blocks learn the faster the later they come: a factor in each group, which the bug leaves there."""

    def configure_optimizers(self) -> Any:
        groups = [
            {"params": list(self.encoder.parameters()), "lr_scale": 0.5},
            {"params": list(self.decoder.parameters()), "lr_scale": 1.0},
        ]
        for group in groups if not self.wrong else ():
            group["lr"] = 1e-3 * group["lr_scale"]  # type: ignore[operator]
        return torch.optim.AdamW(groups, lr=1e-3)


def unapplied_factor(model: nn.Module) -> float:
    """How far the ratio of the two rates is from that of the two factors."""
    encoder, decoder = model.configure_optimizers().param_groups  # type: ignore[operator]
    return abs(encoder["lr"] / decoder["lr"] - encoder["lr_scale"] / decoder["lr_scale"])


wild(
    "rms_norms_are_decayed",
    title="The trainer's weight decay spares nn.LayerNorm, and decays the gains of every other norm",
    report="huggingface/transformers#35927",
    area="optimisation",
    field="text",
    test="parameter_groups[decay]",
    setup=partial(Training, TAGGED),
    buggy=partial(DecayedTagger, True),
    sound=DecayedTagger,
    wrong=decayed_gains,
    module="into.0.gain",
    status=Status.WARN,
)
wild(
    "one_cycle_with_one_rate",
    title="Encoder and decoder are given unlike learning rates, and the one-cycle schedule sets one for both",
    report="shariqfarooq123/AdaBins#44",
    area="optimisation",
    field="vision",
    test="parameter_groups[rates]",
    setup=partial(Training, IMAGES),
    buggy=partial(Depths, True),
    sound=Depths,
    wrong=lost_ratio,
    module="encoder",
    status=Status.WARN,
)
wild(
    "layer_factor_that_nothing_applies",
    title="Layer-wise factors on the learning rate stand in the groups, and the optimizer does not know them",
    report="facebookresearch/mae#216",
    area="optimisation",
    field="vision",
    test="parameter_groups[rates]",
    setup=partial(Training, IMAGES),
    buggy=partial(FineTuned, True),
    sound=FineTuned,
    wrong=unapplied_factor,
    module="encoder",
    status=Status.WARN,
)
