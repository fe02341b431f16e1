"""Outputs that noise drowns, that one input decides, or that go where no gradient points; and their twins."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from harness.evidence import Status

from ..setups import Factory
from ..tasks import CHANNELS, CLASSES, FEATURES, IMAGES, LENGTH, NUMBER, SIDE, TABLE, TEXT, VOCAB
from .analysed import plant
from .parts import WIDTH

NOISE, MASKING, STEP = (f"robustness[{case}]" for case in ("noise", "masking", "adversarial_step"))


class Periodic(nn.Module):
    """Features as sines of many frequencies (Gorishniy et al. 2022, On Embeddings for Numerical Features)."""

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(deviation * torch.randn(FEATURES, 8))

    def forward(self, x: Tensor) -> Tensor:
        angles = 2 * torch.pi * self.frequencies * x[..., None]
        return torch.cat((angles.sin(), angles.cos()), -1).flatten(1)


def periodic(deviation: float) -> Factory:
    return lambda: nn.Sequential(Periodic(deviation), nn.Linear(FEATURES * 16, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1))


class Waves(nn.Module):
    """Pixels as sines of frequencies 1 to 10,000 to the power of ``sign``, which is -1 in Vaswani et al. 2017."""

    frequencies: Tensor

    def __init__(self, sign: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", 10_000.0 ** (sign * torch.arange(8) / 8))

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, :, None] * self.frequencies[:, None, None]).sin().flatten(1, 2)


def waves(sign: int) -> Factory:
    return lambda: nn.Sequential(
        Waves(sign), nn.Conv2d(8 * CHANNELS, WIDTH, 3), nn.ReLU(), nn.Flatten(), nn.Linear(WIDTH * (SIDE - 2) ** 2, CLASSES)
    )


class InUnits(nn.Module):
    """Inputs in units of their own, by one factor for each column or channel."""

    factors: Tensor

    def __init__(self, *factors: float) -> None:
        super().__init__()
        self.register_buffer("factors", torch.tensor(factors))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factors.view(-1, *[1] * (x.ndim - 2))


def table(*factors: float) -> Factory:
    return lambda: nn.Sequential(InUnits(*factors), nn.Linear(FEATURES, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES))


def depth_image(*factors: float) -> Factory:
    return lambda: nn.Sequential(
        InUnits(*factors), nn.Conv2d(CHANNELS, WIDTH, 3), nn.ReLU(), nn.Flatten(), nn.Linear(WIDTH * (SIDE - 2) ** 2, CLASSES)
    )


class Pooled(nn.Module):
    """Attention pooling with a preference for early tokens."""

    late: Tensor

    def __init__(self, steepness: float) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, WIDTH)
        self.scores = nn.Linear(WIDTH, 1)
        self.head = nn.Linear(WIDTH, CLASSES)
        self.register_buffer("late", steepness * torch.arange(LENGTH))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.tokens(input_ids)
        scores = self.scores(x)[..., 0] - self.late[: x.shape[1]]
        weights = scores.masked_fill(attention_mask == 0, torch.finfo(x.dtype).min).softmax(-1)
        return self.head((weights[..., None] * x).sum(1))


class Levels(nn.Module):
    """Pixels in 128 levels, as a cast to integers leaves them."""

    def __init__(self, rounded: bool) -> None:
        super().__init__()
        self.rounded = rounded

    def forward(self, x: Tensor) -> Tensor:
        levels = (x + 4) * 16
        return (levels.round() if self.rounded else levels) / 16 - 4


def levels(rounded: bool) -> Factory:
    return lambda: nn.Sequential(
        Levels(rounded), nn.Conv2d(CHANNELS, WIDTH, 3), nn.ReLU(), nn.Flatten(), nn.Linear(WIDTH * (SIDE - 2) ** 2, CLASSES)
    )


_warned = partial(plant, status=Status.WARN)
LIKE = (1.0,) * FEATURES

_warned(
    "frequencies too high",
    NUMBER,
    periodic(500.0),
    periodic(0.1),
    NOISE,
    "drowned_by_noise",
    "0",
    says="noise below 8-bit resolution",
)
_warned("frequencies upside down", IMAGES, waves(1), waves(-1), NOISE, "drowned_by_noise", "0")
_warned("one unit for all", TABLE, table(*LIKE[1:], 1e4), table(*LIKE), MASKING, "hangs_on_one_part")
_warned(
    "depth in millimetres",
    IMAGES,
    depth_image(1, 1, 5e3),
    depth_image(1, 1, 5),
    MASKING,
    "hangs_on_one_part",
    says="hangs on channel 2",
)
_warned(
    "first token always wins",
    TEXT,
    lambda: Pooled(25.0),
    lambda: Pooled(0.2),
    MASKING,
    "hangs_on_one_part",
    says="hangs on token 0",
)
_warned("pixels rounded", IMAGES, levels(rounded=True), levels(rounded=False), STEP, "gradient_does_not_predict", "0")
