"""Models whose attention depends on the way it is computed, and their twins."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..tasks import CAUSAL, CLASSES, LENGTH, TEXT, VOCAB
from .analysed import plant
from .parts import WIDTH, Attention, Decoder, Encoder, by_hand, by_kernel, scores


def by_flags(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    """Falls back on a product by hand, which forgets the scale."""
    if torch.backends.cuda.flash_sdp_enabled():
        return by_kernel(query, key, value, visible)
    return by_hand(query, key * query.shape[-1] ** 0.5, value, visible)


class Switching(nn.Module):
    """An attention with two implementations, as Hugging Face models have them.

    Args:
        config: Says which is used.
        eager: What the one by hand gets wrong: ``scale``, ``padding``, or nothing.
    """

    def __init__(self, config: Any, eager: str) -> None:
        super().__init__()
        self.config = config
        self.eager = eager
        self.inner = Attention(self.mix)

    def mix(self, query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
        if self.config._attn_implementation == "sdpa":
            return by_kernel(query, key, value, visible)
        if self.eager == "scale":
            return by_hand(query * 2, key, value, visible)
        if self.eager == "padding":
            return scores(query, key).masked_fill(~visible, float("-inf")).softmax(-1) @ value
        return by_hand(query, key, value, visible)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        return self.inner(x, visible)


class Switchable(Encoder):
    def __init__(self, eager: str = "") -> None:
        self_config = SimpleNamespace(_attn_implementation="sdpa")
        super().__init__(Switching(self_config, ""), Switching(self_config, eager))
        self.config = self_config

    def set_attn_implementation(self, name: str) -> None:
        self.config._attn_implementation = name


class Biased(nn.TransformerEncoderLayer):
    """A layer with its own method, which the fast path of eval mode does not call."""

    def _sa_block(self, x: Tensor, attn_mask: Tensor | None, key_padding_mask: Tensor | None, is_causal: bool = False) -> Tensor:
        return 0.5 * super()._sa_block(x, attn_mask, key_padding_mask, is_causal)


class OfTorch(nn.Module):
    """``nn.TransformerEncoder`` over tokens."""

    def __init__(self, layer: type[nn.TransformerEncoderLayer]) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, WIDTH)
        self.positions = nn.Parameter(0.02 * torch.randn(LENGTH, WIDTH))
        made = layer(WIDTH, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(made, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.tokens(input_ids) + self.positions[: input_ids.shape[1]]
        padding = ~attention_mask.bool()
        x = self.encoder(x, src_key_padding_mask=torch.where(padding.all(1, keepdim=True), False, padding))
        real = attention_mask[..., None].to(x.dtype)
        return self.head((x * real).sum(1) / real.sum(1).clamp(min=1))


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(F.gelu(features))


plant(
    "fallback_without_scale",
    CAUSAL,
    lambda: Decoder(Attention(by_kernel), Attention(by_flags)),
    lambda: Decoder(Attention(by_kernel), Attention(by_kernel)),
    "attention_kernels",
    "differs",
    "attentions.1",
    says="with the math kernel",
)
plant(
    "eager_with_another_scale",
    TEXT,
    partial(Switchable, "scale"),
    Switchable,
    "attention_kernels",
    "differs",
    "attentions.1.inner",
    says="with the 'eager' attention",
)
plant(
    "eager_not_finite_for_padding",
    TEXT,
    partial(Switchable, "padding"),
    Switchable,
    "attention_kernels",
    "not_finite",
    "attentions.1.inner",
)
plant(
    "method_that_the_fast_path_skips",
    TEXT,
    partial(OfTorch, Biased),
    partial(OfTorch, nn.TransformerEncoderLayer),
    "attention_kernels",
    "differs",
    "encoder.layers.0",
    says="the fast path of PyTorch's attention layers",
)
