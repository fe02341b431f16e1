"""Small sound models, one for every task, so that a first run needs nothing from the user.

They are also the reference that every property must pass.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.tasks import TaskSpec, TaskType


class Attention(nn.Module):
    """Multi-head attention of queries ``[B, T, D]`` over keys ``[B, S, D]`` with an additive mask ``[B, 1, T or 1, S]``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        """Returns ``[B, T, D]``."""
        query, key, value = (
            layer(inputs).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, inputs in ((self.query, x), (self.key, source), (self.value, source))
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A pre-norm transformer block; with ``cross`` it also reads a source sequence."""

    def __init__(self, width: int, heads: int, dropout: float, cross: bool = False) -> None:
        super().__init__()
        self.norm_attn = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm_cross = nn.LayerNorm(width) if cross else None
        self.cross = Attention(width, heads) if cross else None
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None, source: Tensor | None = None, source_mask: Tensor | None = None) -> Tensor:
        """Returns ``[B, T, D]``."""
        normed = self.norm_attn(x)
        x = x + self.dropout(self.attn(normed, normed, mask))
        if self.cross is not None and self.norm_cross is not None and source is not None:
            x = x + self.dropout(self.cross(self.norm_cross(x), source, source_mask))
        return x + self.dropout(self.mlp(self.norm_mlp(x)))


class Embedding(nn.Module):
    """Token and position embeddings, ``[B, S]`` to ``[B, S, D]``."""

    def __init__(self, vocab_size: int, max_seq_len: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(max_seq_len, width)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Returns ``[B, S, D]``."""
        return self.tokens(input_ids) + self.positions(torch.arange(input_ids.shape[1], device=input_ids.device))


def _visible_to_additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    # The most negative finite number, not -inf: a row that is all padding then attends evenly instead of giving NaN.
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, torch.finfo(dtype).min)


def causal_mask(length: int, padding: Tensor | None, like: Tensor) -> Tensor:
    """Additive mask ``[B or 1, 1, S, S]``: earlier positions that are real."""
    visible = torch.ones(length, length, dtype=torch.bool, device=like.device).tril()[None, None]
    if padding is not None:
        visible = visible & padding[:, None, None, :].bool()
    return _visible_to_additive(visible, like.dtype)


def padding_mask(padding: Tensor | None, like: Tensor) -> Tensor | None:
    """Additive mask ``[B, 1, 1, S]`` of the real positions; ``None`` where all are real."""
    return None if padding is None else _visible_to_additive(padding[:, None, None, :].bool(), like.dtype)


class LMStub(nn.Module):
    """A decoder-only language model with tied embeddings."""

    def __init__(self, vocab_size: int, max_seq_len: int, width: int = 128, depth: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.embed = Embedding(vocab_size, max_seq_len, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout=0.1) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab_size, bias=False)
        self.head.weight = self.embed.tokens.weight

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits ``[B, S, V]`` of the next token."""
        x = self.embed(input_ids)
        mask = causal_mask(input_ids.shape[1], attention_mask, x)
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.norm(x))


class EncoderStub(nn.Module):
    """A bidirectional encoder with scores for every position (``pooled=False``) or for the whole sequence."""

    def __init__(
        self, vocab_size: int, max_seq_len: int, num_outputs: int, pooled: bool, width: int = 64, depth: int = 2, heads: int = 4
    ) -> None:
        super().__init__()
        self.embed = Embedding(vocab_size, max_seq_len, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout=0.1) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_outputs)
        self.pooled = pooled

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Scores ``[B, S, C]``, or ``[B, C]`` when pooled."""
        x = self.embed(input_ids)
        mask = padding_mask(attention_mask, x)
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        return self.head(_masked_mean(x, attention_mask) if self.pooled else x)


class Seq2SeqStub(nn.Module):
    """An encoder and a decoder that reads it; one table of embeddings serves source and target."""

    def __init__(
        self,
        vocab_size: int,
        max_seq_len: int,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        target_vocab_size: int | None = None,
    ) -> None:
        super().__init__()
        target_vocab_size = target_vocab_size or vocab_size
        self.embed = Embedding(max(vocab_size, target_vocab_size), max_seq_len, width)
        self.encoder = nn.ModuleList(Block(width, heads, dropout=0.1) for _ in range(depth))
        self.decoder = nn.ModuleList(Block(width, heads, dropout=0.1, cross=True) for _ in range(depth))
        self.norm_source = nn.LayerNorm(width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, target_vocab_size)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, *, decoder_input_ids: Tensor) -> Tensor:
        """Logits ``[B, T, V]`` of the target's next token."""
        source = self.embed(input_ids)
        source_mask = padding_mask(attention_mask, source)
        for block in self.encoder:
            source = block(source, source_mask)
        source = self.norm_source(source)
        x = self.embed(decoder_input_ids)
        mask = causal_mask(decoder_input_ids.shape[1], None, x)
        for block in self.decoder:
            x = block(x, mask, source, source_mask)
        return self.head(self.norm(x))


class SimpleCNN(nn.Module):
    """Two convolutions, average pooling and a linear head."""

    def __init__(self, channels: int, num_classes: int, width: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
        )
        self.head = nn.Linear(2 * width, num_classes)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Scores ``[B, C]`` of images ``[B, channels, H, W]``."""
        return self.head(self.features(pixel_values).mean((-2, -1)))


class TabularMLP(nn.Module):
    """A perceptron over features ``[B, F]``."""

    def __init__(self, num_features: int, num_outputs: int, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(num_features, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, num_outputs)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Scores ``[B, C]``; ``[B, 1]`` for a single output."""
        return self.layers(features)


def build_stub(task: TaskSpec) -> nn.Module:
    """The embedded model of a task, with fresh weights from the global random state."""
    vocab, length = task.vocab_size or 0, task.max_seq_len or 0
    builders: dict[TaskType, Callable[[], nn.Module]] = {
        TaskType.CAUSAL_LM: lambda: LMStub(vocab, length),
        TaskType.MASKED_LM: lambda: EncoderStub(vocab, length, vocab, pooled=False),
        TaskType.TOKEN_CLASSIFICATION: lambda: EncoderStub(vocab, length, task.num_classes or 0, pooled=False),
        TaskType.SEQUENCE_CLASSIFICATION: lambda: EncoderStub(vocab, length, task.num_classes or 0, pooled=True),
        TaskType.SEQ2SEQ_LM: lambda: Seq2SeqStub(vocab, length, target_vocab_size=task.target_vocab_size),
        TaskType.IMAGE_CLASSIFICATION: lambda: SimpleCNN((task.image_size or (1,))[0], task.num_classes or 0),
        TaskType.TABULAR_CLASSIFICATION: lambda: TabularMLP(task.num_features or 0, task.num_classes or 0),
        TaskType.TABULAR_REGRESSION: lambda: TabularMLP(task.num_features or 0, 1),
    }
    return builders[task.task_type]()


def _masked_mean(x: Tensor, padding: Tensor | None) -> Tensor:
    """Mean over the real positions, ``[B, S, D]`` to ``[B, D]``; zero for a row without any."""
    if padding is None:
        return x.mean(1)
    weights = padding[..., None].to(x.dtype)
    return (x * weights).sum(1) / weights.sum(1).clamp(min=1)
