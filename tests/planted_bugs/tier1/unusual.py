"""Unusual models: most of them sound, some of them with a bug as well."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..tasks import CHANNELS, CLASSES, FEATURES, LENGTH, SIDE
from .decoders import Decoder
from .encoders import TextClassifier
from .parts import WIDTH, real_keys
from .tabular import Perceptron


class HarderRowsGoTwice(Perceptron):
    """Rows whose features are large pass a second time; each row decides for itself."""

    def finish(self, x: Tensor) -> Tensor:
        again = x.square().mean(-1, keepdim=True) > 1
        return torch.where(again, self.middle(x).tanh() + x, x)


class HardBatchesGoTwice(Perceptron):
    """The same decision, taken for the whole batch."""

    def finish(self, x: Tensor) -> Tensor:
        return self.middle(x).tanh() + x if bool(x[0, 0] > x[:, 1].mean()) else x


class SampledHidden(Perceptron):
    """A variational layer that continues sampling in eval mode."""

    def finish(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x)


class SampledWithItsOwnGenerator(Perceptron):
    """Random features that are the same in every call, from their own generator."""

    def finish(self, x: Tensor) -> Tensor:
        rng = torch.Generator().manual_seed(0)
        return x * (1 + 0.1 * torch.randn(x.shape[-1], generator=rng).to(x))


class SparseGradients(TextClassifier):
    """An embedding whose gradient is a sparse tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.embed.tokens.sparse = True


class SparseMixing(nn.Module):
    """Features mixed by a sparse matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mixing", (torch.eye(FEATURES) + torch.eye(FEATURES).roll(1, 0)).to_sparse())
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(torch.sparse.mm(self.mixing.to(features.dtype), features.T).T)


class FourierMixing(nn.Module):
    """Patches mixed by a Fourier transform; complex on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(CHANNELS, WIDTH, 4, 4)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.patches(pixel_values).flatten(2).mT
        return self.head(self.norm(x + torch.fft.fft2(x.float()).real.to(x.dtype)).mean(1))


class ComplexFilter(nn.Module):
    """A filter in frequency space with complex weights."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(0.5 * torch.randn(CHANNELS, SIDE, SIDE // 2 + 1, dtype=torch.complex64))
        self.head = nn.Linear(CHANNELS * SIDE * SIDE, CLASSES)

    def forward(self, pixel_values: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(pixel_values) * self.filter
        return self.head(torch.fft.irfft2(spectrum, s=(SIDE, SIDE)).to(pixel_values.dtype).flatten(1))


class NoParameters(nn.Module):
    """Scores by a rule."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.stack([features.sum(-1) * (number + 1) / 10 for number in range(CLASSES)], -1)


class FrozenStem(Perceptron):
    """A pretrained part that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.stem.requires_grad_(False)


class AllFrozen(Perceptron):
    """Nothing is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(False)


class FrozenUnderNoGrad(Decoder):
    """Frozen embeddings, read without a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, self.head.out_features, bias=False)
        self.embed.requires_grad_(False)

    def visible(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        with torch.no_grad():
            return super().visible(input_ids, attention_mask)


def quantised_linears() -> nn.Module:
    """A perceptron whose linear layers hold int8 weights."""
    return torch.ao.quantization.quantize_dynamic(Perceptron().eval(), {nn.Linear}, dtype=torch.qint8)


class Rounded(nn.Module):
    """Weights stored as int8 with a scale, as buffers."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn(WIDTH, FEATURES)
        self.register_buffer("scale", weight.abs().amax(1, keepdim=True) / 127)
        self.register_buffer("weight", (weight / self.scale).round().to(torch.int8))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        return self.head((features @ (self.weight.to(self.scale.dtype) * self.scale).T).tanh())


@dataclass
class Output:
    loss: Tensor | None
    logits: Tensor
    hidden: list[Tensor]


class SeveralOutputs(TextClassifier):
    """A dataclass of logits and more."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Output:  # type: ignore[override]
        hidden = self.encode(input_ids, real_keys(input_ids, attention_mask))
        logits = self.head(self.pool(hidden, real_keys(input_ids, attention_mask)[:, 0, 0]))
        return Output(None, logits, [hidden])


class LogitsAndCache(Decoder):
    """A tuple of logits and states."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, dict[str, object]]:  # type: ignore[override]
        return super().forward(input_ids, attention_mask), {"length": input_ids.shape[1], "states": None}


class HugeVocabulary(nn.Module):
    """A small decoder of thirty thousand tokens."""

    VOCAB = 30_000

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(self.VOCAB, 4)
        self.gru = nn.GRU(4, 8, batch_first=True)
        self.head = nn.Linear(8, self.VOCAB)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.gru(self.tokens(input_ids))[0])


class ReadsTheLength(nn.Module):
    """Ragged sequences as a nested list inside; the output is a plain tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.EmbeddingBag(37, WIDTH, mode="mean")
        self.places = nn.Embedding(LENGTH + 1, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        real = attention_mask.bool()
        lengths = real.sum(1)
        offsets = torch.cat((lengths.new_zeros(1), lengths.cumsum(0)[:-1]))
        return self.head(self.tokens(input_ids[real], offsets) + self.places(lengths))


class PyTorchEncoder(nn.Module):
    """PyTorch's own encoder, which hands nested tensors from layer to layer."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(37, WIDTH)
        self.places = nn.Embedding(LENGTH, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        hidden = self.encoder(self.tokens(input_ids) + self.places(places), src_key_padding_mask=attention_mask == 0)
        real = attention_mask[:, : hidden.shape[1], None].to(hidden.dtype)  # the fast path cuts off what no row needs
        return self.head((hidden * real).sum(1) / real.sum(1).clamp(min=1))


class IdleExperts(nn.Module):
    """Experts of which each reads its own rows; most of a small batch have none, and compute on tensors without elements."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("directions", torch.randn(8, FEATURES, generator=torch.Generator().manual_seed(0)))
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(FEATURES, WIDTH), nn.Tanh(), nn.Linear(WIDTH, CLASSES)) for _ in range(8)
        )

    def forward(self, x: Tensor) -> Tensor:
        chosen = (x @ self.directions.T).argmax(-1)
        out = x.new_zeros(len(x), CLASSES)
        for place, expert in enumerate(self.experts):
            out = out.index_copy(0, (chosen == place).nonzero()[:, 0], expert(x[chosen == place]))
        return out
