"""Models with wrong gradients, and their twins."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.evidence import Status

from ..tasks import CAUSAL, CLASSES, FEATURES, TABLE
from .analysed import plant
from .parts import Attention, Decoder, by_hand


class WrongSwish(torch.autograd.Function):
    """Forgets a term of the product rule."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * x.sigmoid()


class WrongLinear(torch.autograd.Function):
    """Averages the gradient of the weight over the rows, and gets that of its input right."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.T

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return gradient @ weight, gradient.T @ x / len(x)


class Rounding(torch.autograd.Function):
    """A straight-through estimator."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x * 4) / 4

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Swish(nn.Module):
    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong

    def forward(self, x: Tensor) -> Tensor:
        return WrongSwish.apply(x) if self.wrong else F.silu(x)


class Projection(nn.Module):
    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.weight = nn.Parameter(torch.randn(32, 32) / 6)

    def forward(self, x: Tensor) -> Tensor:
        return WrongLinear.apply(x, self.weight) if self.wrong else F.linear(x, self.weight)


class Norm(nn.Module):
    """A norm by hand; the bug takes its statistics out of the graph."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong

    def forward(self, x: Tensor) -> Tensor:
        spread = x.var(-1, keepdim=True, unbiased=False)
        return (x - x.mean(-1, keepdim=True)) / ((spread.detach() if self.wrong else spread) + 1e-5).sqrt()


class Clipped(nn.Module):
    """Limits large values; the bug does so behind autograd's back."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong

    def forward(self, x: Tensor) -> Tensor:
        if not self.wrong:
            return x.clamp(-0.2, 0.2)
        x = x * 1.0
        x.data.clamp_(-0.2, 0.2)
        return x


class Rounded(nn.Module):
    def __init__(self, on: bool) -> None:
        super().__init__()
        self.on = on

    def forward(self, x: Tensor) -> Tensor:
        return Rounding.apply(x) if self.on else x


class Codebook(nn.Module):
    """The nearest of a few codes, with a straight-through estimator; the codes are trained by their own loss."""

    def __init__(self, on: bool) -> None:
        super().__init__()
        self.on = on
        self.codes = nn.Parameter(torch.randn(8, 32))

    def forward(self, x: Tensor) -> Tensor:
        if not self.on:
            return x + self.codes.mean(0)
        return x + (self.codes[torch.cdist(x, self.codes).argmin(-1)] - x).detach()


class Sensitive(nn.Module):
    """A chain of norms over nearly nothing: it turns within a millionth of a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(32))

    def forward(self, x: Tensor) -> Tensor:
        x = 1e-12 * x + self.weight
        for _ in range(4):
            x = F.layer_norm(x, (32,))
        return x


class BatchStatistics(nn.Module):
    """A batch norm by hand; the bug, in train mode alone, takes its statistics out of the graph."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.weight = nn.Parameter(torch.ones(32))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x * self.weight
        scale = x.std(0) + 1e-3
        return (x - x.mean(0)) / (scale.detach() if self.wrong else scale) * self.weight


class Table(nn.Module):
    """A perceptron around its own module."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, 32)
        self.inner = inner
        self.head = nn.Sequential(nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, CLASSES))

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.inner(self.first(features)))


def table(inner: type[nn.Module], *args: Any) -> nn.Module:
    return Table(inner(*args))


def detached_query(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    return by_hand(torch.cat((query[:, :1], query[:, 1:].detach()), 1), key, value, visible)


class Pictures(nn.Module):
    """Kinks of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 16, 3), nn.ReLU6()
        )
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(16, 32), nn.LeakyReLU(), nn.Linear(32, CLASSES))

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(self.net(pixel_values).amax((2, 3)))


class Upcast(nn.Module):
    """A norm that computes in float32, whatever the model is in."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), x.shape[-1:]).to(x.dtype)


class Renormalised(nn.Module):
    """An embedding that changes its own weights in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Decoder(Attention())
        self.inner.tokens = nn.Embedding(37, 16, max_norm=1.0)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.inner(input_ids)


class UnderNoGrad(Norm):
    """The same norm, with its statistics computed where no graph is kept: nothing in the code says that this is meant."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(not self.wrong):
            spread = x.var(-1, keepdim=True, unbiased=False)
        return (x - x.mean(-1, keepdim=True)) / (spread + 1e-5).sqrt()


plant(
    "variance_without_graph",
    TABLE,
    partial(table, UnderNoGrad, True),
    partial(table, UnderNoGrad, False),
    "gradcheck",
    "wrong_gradient",
    "inner",
    says="not the derivative",
)
plant(
    "term_forgotten",
    TABLE,
    partial(table, Swish, True),
    partial(table, Swish, False),
    "gradcheck",
    "wrong_gradient",
    "inner",
    says="autograd says",
)
plant(
    "weight_gradient_averaged",
    TABLE,
    partial(table, Projection, True),
    partial(table, Projection, False),
    "gradcheck",
    "wrong_gradient",
    "inner",
)
plant(
    "variance_detached",
    TABLE,
    partial(table, Norm, True),
    partial(table, Norm, False),
    "gradcheck",
    "detached",
    "inner",
    status=Status.WARN,
    says="`detach()` in forward removes",
)
plant(
    "clamped_through_data",
    TABLE,
    partial(table, Clipped, True),
    partial(table, Clipped, False),
    "gradcheck",
    "wrong_gradient",
    "inner",
)
plant(
    "one_head_detached",
    CAUSAL,
    lambda: Decoder(Attention(), Attention(detached_query)),
    lambda: Decoder(Attention(), Attention()),
    "gradcheck",
    "detached",
    "attentions.1",
    status=Status.WARN,
)
plant(
    "statistics_detached_in_training",
    TABLE,
    partial(table, BatchStatistics, True),
    partial(table, BatchStatistics, False),
    "gradcheck",
    "detached",
    "inner",
    status=Status.WARN,
)
plant(
    "straight_through",
    TABLE,
    partial(table, Rounded, True),
    partial(table, Rounded, False),
    "gradcheck",
    "staircase",
    "inner",
    status=Status.WARN,
    says="is a step function of",
)
plant(
    "codebook",
    TABLE,
    partial(table, Codebook, True),
    partial(table, Codebook, False),
    "gradcheck",
    "staircase",
    "inner",
    status=Status.WARN,
)
