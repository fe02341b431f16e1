"""An image classifier without attention: an MLP across patches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..register import ISLAM, PYTORCH, planted
from ..tasks import CHANNELS, CLASSES, IMAGES, SIDE
from .parts import WIDTH

PATCH = 4
PATCHES = (SIDE // PATCH) ** 2


class Mixer(nn.Module):
    """An MLP across patches and one across channels."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(CHANNELS, WIDTH, PATCH, PATCH)
        self.norm_tokens = nn.LayerNorm(WIDTH)
        self.tokens = nn.Sequential(nn.Linear(PATCHES, 8), nn.GELU(), nn.Linear(8, PATCHES))
        self.norm_channels = nn.LayerNorm(WIDTH)
        self.channels = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.patches(pixel_values).flatten(2).mT
        x = x + self.mix(self.norm_tokens(x))
        x = x + self.channels(self.norm_channels(x))
        return self.head(x.mean(1))

    def mix(self, x: Tensor) -> Tensor:
        return self.tokens(x.mT).mT


class _StridedStem(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.as_strided(x.shape, (CHANNELS * SIDE * SIDE, SIDE * SIDE, SIDE, 1), x.storage_offset()))


@planted("memory_layout", task=IMAGES, sound=Mixer, module="patches", source=f"{PYTORCH}: as_strided reads memory, not values")
class PixelsReadByStride(Mixer):
    def __init__(self) -> None:
        super().__init__()
        self.patches = _StridedStem(CHANNELS, WIDTH, PATCH, PATCH)


class _LastPatchLost(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return torch.cat((x.flatten(2)[..., :-1], torch.zeros_like(x.flatten(2)[..., -1:])), -1).unflatten(-1, x.shape[2:])


@planted("input_dependence[regions]", task=IMAGES, sound=Mixer, module="patches", source=f"{ISLAM}: off by one")
class LastPatchLost(Mixer):
    def __init__(self) -> None:
        super().__init__()
        self.patches = _LastPatchLost(CHANNELS, WIDTH, PATCH, PATCH)


@planted(
    "batch_independence[forward]",
    task=IMAGES,
    sound=Mixer,
    module="(model)",
    source=f"{ISLAM}: transpose of the wrong axes",
    also=("batch_independence[gradient]",),
)
class MixedAcrossTheBatch(Mixer):
    def mix(self, x: Tensor) -> Tensor:
        return self.tokens(x.mT).mT + 0.1 * x.flip(0)


class _DrawingStem(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        kept = torch.rand(len(x), 1, 1, 1, device=x.device) > 0.1
        x = super().forward(x)
        return x * kept if self.training else x


@planted(
    "rng_untouched",
    task=IMAGES,
    sound=Mixer,
    module="patches",
    source=f"{PYTORCH}: Reproducibility; random numbers drawn in eval mode",
)
class PatchMaskDrawnInEval(Mixer):
    def __init__(self) -> None:
        super().__init__()
        self.patches = _DrawingStem(CHANNELS, WIDTH, PATCH, PATCH)


class _Dropping(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (torch.rand(len(x), 1, 1, device=x.device) > 0.2)


@planted(
    "eval_deterministic",
    task=IMAGES,
    sound=Mixer,
    module="norm_channels",
    source="Huang et al. 2016, Deep Networks with Stochastic Depth",
)
class StochasticDepthInEval(Mixer):
    def __init__(self) -> None:
        super().__init__()
        self.norm_channels = _Dropping(WIDTH)


@planted(
    "registration",
    task=IMAGES,
    sound=Mixer,
    module="gains['channels']",
    source=f"{PYTORCH}: parameters in a dict are not registered",
)
class GainsInADict(Mixer):
    def __init__(self) -> None:
        super().__init__()
        self.gains = {"channels": nn.Parameter(torch.ones(WIDTH))}

    def mix(self, x: Tensor) -> Tensor:
        return super().mix(x * self.gains["channels"])
