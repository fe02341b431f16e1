"""Models that half precision breaks, and their twins."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..tasks import CAUSAL, CLASSES, FEATURES, TABLE, TEXT
from .analysed import plant
from .parts import Attention, Decoder, Encoder, by_hand, scores


def unscaled(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    """Scores beyond 65504, which the softmax would bring back into range in float32."""
    large = (query * 300) @ (key * 300).transpose(-1, -2)
    return large.masked_fill(~visible, torch.finfo(large.dtype).min).softmax(-1) @ value


def scaled(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    return by_hand(query * 3, key * 3, value, visible)


def constant_mask(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    return (scores(query, key) + (1 - visible.to(query.dtype)) * -1e9).softmax(-1) @ value


class Norm(nn.Module):
    """A norm by hand."""

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + self.epsilon).sqrt()


class Table(nn.Module):
    """A perceptron without biases around its own module."""

    def __init__(self, inner: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, 32, bias=False)
        self.inner = inner()
        self.head = nn.Linear(32, CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.inner(self.first(features)))


class Branch(nn.Module):
    """A shortcut that was taken for half precision alone."""

    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return x.tanh() if x.dtype == self.dtype else F.gelu(x)


class Difference(nn.Module):
    """A small difference of large numbers; the twin never makes them large."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.offset) - self.offset


class Buffered(nn.Module):
    """Writes into a tensor of the weight's dtype, which is not what autocast computes in."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.own = own
        self.proj = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        found = self.proj(x)
        table = torch.eye(32, dtype=self.proj.weight.dtype if self.own else found.dtype)
        return (
            torch.einsum("bi,ij->bj", found, table)
            if not self.own
            else table.index_add(0, torch.arange(len(found)), found)[: len(x)]
        )


plant(
    "scores_overflow",
    CAUSAL,
    lambda: Decoder(Attention(unscaled)),
    lambda: Decoder(Attention(scaled)),
    "half_precision[float16]",
    "not_finite",
    "attentions.0",
    says="not finite",
)
plant(
    "mask_constant_overflows",
    TEXT,
    lambda: Encoder(Attention(by_hand), Attention(constant_mask)),
    lambda: Encoder(Attention(by_hand), Attention(by_hand)),
    "half_precision[float16]",
    "not_finite",
    "attentions.1",
    says="a batch with a row that is all padding",
)
plant(
    "epsilon_underflows",
    TABLE,
    partial(Table, partial(Norm, 1e-8)),
    partial(Table, partial(Norm, 1e-5)),
    "half_precision[float16]",
    "not_finite",
    "inner",
    says="an input that is zero everywhere",
)
plant(
    "branch_on_bfloat16",
    TABLE,
    partial(Table, partial(Branch, torch.bfloat16)),
    partial(Table, partial(Branch, None)),
    "half_precision[bfloat16]",
    "beyond_rounding",
    "inner",
    also=("half_precision[autocast]",),
)
plant(
    "difference_of_large_numbers",
    TABLE,
    partial(Table, partial(Difference, 500.0)),
    partial(Table, partial(Difference, 0.0)),
    "half_precision[bfloat16]",
    "beyond_rounding",
    "inner",
    also=("half_precision[float16]", "half_precision[autocast]"),
)
plant(
    "buffer_in_the_dtype_of_the_weight",
    TABLE,
    partial(Table, partial(Buffered, True)),
    partial(Table, partial(Buffered, False)),
    "half_precision[autocast]",
    "raises",
    "inner",
)
