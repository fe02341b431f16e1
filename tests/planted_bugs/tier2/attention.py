"""Bugs in attention weights, and their twins."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from harness.evidence import Status

from ..setups import Factory
from ..tasks import CAUSAL, IMAGES, SEQ2SEQ, TEXT, VOCAB
from .analysed import plant
from .parts import HEADS, WIDTH, Attention, Decoder, Encoder, Mix, Patches, by_hand, by_kernel, hidden, scores


def over_queries(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    return hidden(scores(query, key), visible).softmax(-2) @ value


def over_heads(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    return torch.einsum("bhts,bhsd->bhtd", torch.softmax(scores(query, key), dim=1), value)


def by_einsum(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    return torch.einsum("bhts,bhsd->bhtd", torch.softmax(scores(query, key), dim=-1), value)


def masked_after(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    weights = scores(query, key).softmax(-1)
    return (weights * visible.to(weights.dtype)) @ value


def values_first(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    """The transposed convention: the keys are the last axis but one."""
    weights = hidden(scores(query, key), visible).transpose(-1, -2).softmax(-2)
    return (value.transpose(-1, -2) @ weights).transpose(-1, -2)


def with_sink(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    """A sink that takes weight and gives no value, as in GPT-OSS."""
    own = hidden(scores(query, key), visible)
    return torch.cat((own, torch.zeros_like(own[..., :1])), -1).softmax(-1)[..., :-1] @ value


def with_mixed_heads(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    """Talking heads (Shazeer et al. 2020): the heads' weights are mixed, so their rows are no distributions."""
    weights = hidden(scores(query, key), visible).softmax(-1)
    return torch.einsum("bhts,hg->bgts", weights, torch.eye(HEADS).to(weights) * 2) @ value


def with_gates(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    weights = hidden(scores(query, key), visible).softmax(-1)
    return (weights * query.sigmoid().mean(-1, keepdim=True)) @ value


def unmasked_head(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    seen = visible.expand(-1, HEADS, -1, -1).clone()
    seen[:, 1] = True
    return by_kernel(query, key, value, seen)


def shifted(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    return by_hand(query, key, value, torch.ones_like(visible).tril(1))


def unpadded(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    return by_kernel(query, key, value, torch.ones_like(visible))


def weak_mask(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    return (scores(query, key) + (1 - visible.to(query.dtype)) * -10).softmax(-1) @ value


def too_small(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    return by_hand(query / 1e9, key, value, visible)


def of_one_head(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    return by_hand(query[:, :1].expand_as(query), key[:, :1].expand_as(key), value, visible)


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH // HEADS)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        query, key, value = self.qkv(x)[:, None].chunk(3, -1)
        return by_hand(query, key, value, visible)[:, 0]


class Heads(nn.Module):
    """Heads that are modules of their own."""

    def __init__(self, heads: list[Head]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        return torch.cat([head(x, visible) for head in self.heads], -1)


class OfTorch(nn.Module):
    """``nn.MultiheadAttention``; the bug is a mask that is not handed on."""

    def __init__(self, masked: bool, zero: bool = True) -> None:
        super().__init__()
        self.masked = masked
        self.inner = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        if zero:
            nn.init.zeros_(self.inner.out_proj.weight)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        mask = ~visible[0, 0] if self.masked else None
        return self.inner(x, x, x, attn_mask=mask, need_weights=False)[0]


class Translator(nn.Module):
    """``nn.Transformer`` with every mask, or without the decoder's."""

    def __init__(self, masked: bool) -> None:
        super().__init__()
        self.masked = masked
        self.tokens = nn.Embedding(VOCAB, WIDTH)
        self.inner = nn.Transformer(WIDTH, HEADS, 1, 1, 2 * WIDTH, batch_first=True, norm_first=True)
        self.head = nn.Linear(WIDTH, VOCAB)
        nn.init.zeros_(self.inner.decoder.layers[0].self_attn.out_proj.weight)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        length = decoder_input_ids.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=input_ids.device).triu(1)
        padded = attention_mask == 0
        x = self.inner(
            self.tokens(input_ids),
            self.tokens(decoder_input_ids),
            tgt_mask=later if self.masked else None,
            src_key_padding_mask=padded,
            memory_key_padding_mask=padded,
        )
        return self.head(x)


def decoder(mix: Mix) -> Factory:
    """A decoder whose second block starts as the identity, which keeps its attention out of the logits."""
    return lambda: Decoder(Attention(), Attention(mix, zero=True))


def encoder(mix: Mix) -> Factory:
    return lambda: Encoder(Attention(by_kernel), Attention(mix, zero=True))


def patches(mix: Mix) -> Factory:
    return lambda: Patches(Attention(by_kernel), Attention(mix))


def same_head_twice() -> nn.Module:
    return Decoder(Heads([Head()] * HEADS))


ROWS, AHEAD, PADDED, COLLAPSED = (
    f"attention_patterns[{case}]" for case in ("rows_sum_to_one", "causal", "padding", "collapsed_heads")
)
_warned = partial(plant, status=Status.WARN)
SECOND = "attentions.1"

plant(
    "softmax over the queries",
    IMAGES,
    patches(over_queries),
    patches(by_hand),
    ROWS,
    "wrong_sum",
    SECOND,
    says="over the queries",
)
plant("softmax over the heads", IMAGES, patches(over_heads), patches(by_einsum), ROWS, "wrong_sum", SECOND, says="over the heads")
plant("mask after softmax", CAUSAL, decoder(masked_after), decoder(by_hand), ROWS, "wrong_sum", SECOND, says="do not sum to 1")
plant(
    "one head unmasked",
    CAUSAL,
    decoder(unmasked_head),
    decoder(by_kernel),
    AHEAD,
    "reads_later_positions",
    SECOND,
    says="head 1 of 2",
)
plant("mask off by one", CAUSAL, decoder(shifted), decoder(by_hand), AHEAD, "reads_later_positions", SECOND, says="every head")
plant(
    "mask not handed on",
    CAUSAL,
    lambda: Decoder(Attention(), OfTorch(masked=False)),
    lambda: Decoder(Attention(), OfTorch(masked=True)),
    AHEAD,
    "reads_later_positions",
    f"{SECOND}.inner",
)
plant(
    "decoder unmasked",
    SEQ2SEQ,
    lambda: Translator(masked=False),
    lambda: Translator(masked=True),
    AHEAD,
    "reads_later_positions",
    "inner.decoder.layers.0.self_attn",
)
plant(
    "padding not masked", TEXT, encoder(unpadded), encoder(by_kernel), PADDED, "reads_padding", SECOND, says="attends to padding"
)
plant("padding mask too weak", TEXT, encoder(weak_mask), encoder(by_hand), PADDED, "reads_padding", SECOND)
_warned("scores divided away", IMAGES, patches(too_small), patches(by_hand), COLLAPSED, "attention_ignores_input", SECOND)
_warned(
    "one head for all", CAUSAL, decoder(of_one_head), decoder(by_hand), COLLAPSED, "heads_alike", SECOND, says="heads 0 and 1"
)
