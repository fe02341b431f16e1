"""Sound transformer parts that the text families share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..tasks import LENGTH, VOCAB

WIDTH, HEADS, DEPTH = 16, 2, 2


class Attention(nn.Module):
    """Multi-head attention of ``[B, T, D]`` over ``[B, S, D]``; ``visible`` is ``[B or 1, 1, T or 1, S]``."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH, bias=False)
        self.key = nn.Linear(WIDTH, WIDTH, bias=False)
        self.value = nn.Linear(WIDTH, WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, source: Tensor, visible: Tensor) -> Tensor:
        query, key, value = self.split(self.query(x)), self.split(self.key(source)), self.split(self.value(source))
        weights = self.weights(query @ key.mT / math.sqrt(query.shape[-1]), visible)
        return self.out(self.merge(weights @ value))

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)

    def merge(self, heads: Tensor) -> Tensor:
        return heads.transpose(1, 2).flatten(2)

    def weights(self, scores: Tensor, visible: Tensor) -> Tensor:
        return scores.masked_fill(~visible, torch.finfo(scores.dtype).min).softmax(-1)


class Block(nn.Module):
    """A pre-norm block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_attn = nn.LayerNorm(WIDTH)
        self.attn = Attention()
        self.norm_mlp = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        normed = self.norm_attn(x)
        x = x + self.dropout(self.attn(normed, normed, visible))
        return x + self.dropout(self.mlp(self.norm_mlp(x)))


class Embedding(nn.Module):
    """Token and position embeddings."""

    def __init__(self, rows: int = VOCAB, length: int = LENGTH) -> None:
        super().__init__()
        self.tokens = nn.Embedding(rows, WIDTH)
        self.positions = nn.Embedding(length, WIDTH)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.tokens(input_ids) + self.positions(torch.arange(input_ids.shape[1], device=input_ids.device))


def real_keys(input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Boolean ``[B, 1, 1, S]``, true at real tokens."""
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    return mask[:, None, None, :].bool()


def earlier(length: int, device: torch.device) -> Tensor:
    """Boolean ``[S, S]``, true at the position itself and before."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()
