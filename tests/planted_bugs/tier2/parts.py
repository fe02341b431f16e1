"""Small transformers and other networks from which the pairs are built."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..tasks import CHANNELS, CLASSES, LENGTH, SIDE, VOCAB

WIDTH, HEADS = 16, 2

Mix = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""From queries, keys and values ``[B, H, S, D]`` and what is visible ``[B or 1, 1, S, S]`` to ``[B, H, S, D]``."""


def scores(query: Tensor, key: Tensor) -> Tensor:
    return query @ key.transpose(-1, -2) / sqrt(query.shape[-1])


def hidden(weights: Tensor, visible: Tensor) -> Tensor:
    return weights.masked_fill(~visible, torch.finfo(weights.dtype).min)


def by_hand(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    return F.dropout(hidden(scores(query, key), visible).softmax(-1), 0.1, training=False) @ value


def by_kernel(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask=visible)


class Attention(nn.Module):
    def __init__(self, mix: Mix = by_hand, zero: bool = False) -> None:
        super().__init__()
        self.mix = mix
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        if zero:  # the block starts as the identity, as in ReZero and Fixup
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        return self.out(self.mix(query, key, value, visible).transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """Pre-norm blocks over embeddings ``[B, S, D]``."""

    def __init__(self, attentions: list[nn.Module], outputs: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(attentions)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in attentions)
        self.mlp = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))
        self.head = nn.Linear(WIDTH, outputs)

    def mixed(self, x: Tensor, visible: Tensor) -> Tensor:
        for norm, attention in zip(self.norms, self.attentions, strict=True):
            x = x + attention(norm(x), visible)
        return x + self.mlp(x)


class Decoder(Transformer):
    def __init__(self, *attentions: nn.Module) -> None:
        super().__init__(list(attentions), VOCAB)
        self.tokens = nn.Embedding(VOCAB, WIDTH)
        self.positions = nn.Embedding(LENGTH, WIDTH)

    def forward(self, input_ids: Tensor) -> Tensor:
        length = input_ids.shape[1]
        x = self.tokens(input_ids) + self.positions.weight[:length]
        return self.head(self.mixed(x, torch.ones(length, length, dtype=torch.bool, device=x.device).tril()[None, None]))


class Encoder(Transformer):
    def __init__(self, *attentions: nn.Module) -> None:
        super().__init__(list(attentions), CLASSES)
        self.tokens = nn.Embedding(VOCAB, WIDTH)
        self.positions = nn.Embedding(LENGTH, WIDTH)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.tokens(input_ids) + self.positions.weight[: input_ids.shape[1]]
        real = attention_mask[..., None].to(x.dtype)
        x = self.mixed(x, attention_mask[:, None, None, :].bool())
        return self.head((x * real).sum(1) / real.sum(1).clamp(min=1))


class Patches(Transformer):
    """A small ViT: ``[B, 3, 8, 8]`` in patches of 2 x 2."""

    def __init__(self, *attentions: nn.Module) -> None:
        super().__init__(list(attentions), CLASSES)
        self.patch = nn.Conv2d(CHANNELS, WIDTH, 2, stride=2)
        self.positions = nn.Parameter(0.02 * torch.randn(SIDE * SIDE // 4, WIDTH))

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.patch(pixel_values).flatten(2).transpose(1, 2) + self.positions
        everything = torch.ones(1, 1, 1, x.shape[1], dtype=torch.bool, device=x.device)
        return self.head(self.mixed(x, everything).mean(1))
