"""Representations that collapse on their way, and their twins."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from harness.evidence import Status

from ..tasks import CAUSAL, CLASSES, FEATURES, TABLE, TEXT, VOCAB
from .analysed import plant
from .parts import WIDTH, Attention, Decoder


class Stack(nn.Module):
    """Sigmoids one after the other, each of which brings its inputs nearer together; with ``residual`` nothing is lost."""

    def __init__(self, depth: int, residual: bool) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, 32)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(32, 32), nn.Sigmoid()) for _ in range(depth))
        self.head = nn.Linear(32, CLASSES)
        self.residual = residual

    def forward(self, features: Tensor) -> Tensor:
        x = self.first(features)
        for layer in self.layers:
            x = layer(x) + (x if self.residual else 0)
        return self.head(x)


class Bottleneck(nn.Module):
    """An encoder and a decoder with a code between them; the bug is its width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(FEATURES, width)
        self.up = nn.Linear(width, 16)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.up(self.down(features)))


class Average(nn.Module):
    """A model that gives every position the mean of all; the bug has no residual connection."""

    def __init__(self, residual: bool, outputs: int = VOCAB, pooled: bool = False) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, WIDTH)
        self.mix = Mean()
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, outputs)
        self.residual, self.pooled = residual, pooled

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.tokens(input_ids)
        x = self.norm(self.mix(x) + (x if self.residual else 0))
        return self.head(x.mean(1) if self.pooled else x)


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1, keepdim=True).expand_as(x)


class ZeroHead(Decoder):
    """Its head starts at zero, as in muP: the logits are alike until the first step."""

    def __init__(self) -> None:
        super().__init__(Attention(zero=True), Attention(zero=True))
        nn.init.zeros_(self.head.weight)


plant(
    "sigmoids_in_a_row",
    TABLE,
    partial(Stack, 14, False),
    partial(Stack, 14, True),
    "representation_rank",
    "examples_alike",
    "layers.7.1",
)
plant(
    "bottleneck_of_one",
    TABLE,
    partial(Bottleneck, 1),
    partial(Bottleneck, 3),
    "representation_rank",
    "one_direction",
    "up",
    status=Status.WARN,
)
plant(
    "positions_averaged",
    CAUSAL,
    partial(Average, False),
    partial(Average, True),
    "representation_rank",
    "positions_alike",
    "mix",
    says="the logits: they are the same for all positions",
)
plant(
    "positions_averaged_before_pooling",
    TEXT,
    partial(Average, False, CLASSES, pooled=True),
    partial(Average, True, CLASSES, pooled=True),
    "representation_rank",
    "positions_alike",
    "mix",
    status=Status.WARN,
    says="the last hidden states: they are the same for all positions",
)
