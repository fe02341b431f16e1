"""Recurrent and convolutional sequence models."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..register import HUMBATOVA, ISLAM, PYTORCH, planted
from ..tasks import CAUSAL, CLASSES, TEXT, VOCAB
from .parts import WIDTH, real_keys


class RecurrentLM(nn.Module):
    """A GRU language model."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, WIDTH)
        self.gru = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.tokens(input_ids)
        return self.head(self.gru(x, self.start(x))[0])

    def start(self, x: Tensor) -> Tensor:
        return x.new_zeros(1, len(x), WIDTH)


class ConvolutionalLM(nn.Module):
    """Causal convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, WIDTH)
        self.near = nn.Conv1d(WIDTH, WIDTH, 3)
        self.far = nn.Conv1d(WIDTH, WIDTH, 3, dilation=2)
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.tokens(input_ids).mT
        x = x + self.near(F.pad(x, (2, 0))).relu()
        x = x + self.far(self.pad_far(x)).relu()
        return self.head(x.mT)

    def pad_far(self, x: Tensor) -> Tensor:
        return F.pad(x, (4, 0))


class LstmClassifier(nn.Module):
    """A bidirectional LSTM over the real tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, WIDTH)
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * WIDTH, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        lengths = real_keys(input_ids, attention_mask)[:, 0, 0].sum(1)
        return self.head(self.read(self.tokens(input_ids), lengths))

    def read(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
        _, (last, _) = self.lstm(packed)
        return torch.cat((last[0], last[1]), -1)


@planted("stateless", task=CAUSAL, sound=RecurrentLM, module="(model)", source=f"{HUMBATOVA}: state kept between calls")
class HiddenStateKept(RecurrentLM):
    def __init__(self) -> None:
        super().__init__()
        self.kept: Tensor | None = None

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.tokens(input_ids)
        start = self.kept if self.kept is not None and self.kept.shape[1] == len(x) else self.start(x)
        x, last = self.gru(x, start)
        self.kept = last.detach()
        return self.head(x)


@planted("stateless", task=CAUSAL, sound=RecurrentLM, source=f"{PYTORCH} FAQ: detach the hidden state between steps")
class HiddenStateKeptWithItsGraph(RecurrentLM):
    def __init__(self) -> None:
        super().__init__()
        self.kept: Tensor | None = None

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.tokens(input_ids)
        trained = self.training and self.kept is not None and self.kept.shape[1] == len(x)
        x, last = self.gru(x, self.kept if trained else self.start(x))
        self.kept = last if self.training else None
        return self.head(x)


@planted(
    "dtype_move[float64]",
    task=CAUSAL,
    sound=RecurrentLM,
    module="gru",
    source=f"{ISLAM}: torch.zeros without dtype",
    also=(
        "dtype_move[bfloat16]",
        "dtype_move[float16]",
    ),
)
class StartInFloat32(RecurrentLM):
    def start(self, x: Tensor) -> Tensor:
        return torch.zeros(1, len(x), WIDTH, device=x.device)


@planted("device_move", task=CAUSAL, sound=RecurrentLM, module="gru", source=f"{ISLAM}: a tensor made without device")
class StartOnTheCpu(RecurrentLM):
    def start(self, x: Tensor) -> Tensor:
        return torch.zeros(1, len(x), WIDTH, dtype=x.dtype)


@planted(
    "device_move", task=CAUSAL, sound=RecurrentLM, module="(model)", source=f"{ISLAM}: noise of train mode is made without device"
)
class TrainingNoiseOnTheCpu(RecurrentLM):
    def start(self, x: Tensor) -> Tensor:
        start = super().start(x)
        return start + 0.01 * torch.randn(start.shape) if self.training else start


@planted("shape_contract", task=CAUSAL, sound=RecurrentLM, module="gru", source=f"{HUMBATOVA}: batch size fixed in the code")
class StartForFourRows(RecurrentLM):
    def start(self, x: Tensor) -> Tensor:
        return x.new_zeros(1, 4, WIDTH)[:, : len(x)]


@planted(
    "causal",
    task=CAUSAL,
    sound=RecurrentLM,
    module="gru",
    source=f"{ISLAM}: API misuse, a bidirectional layer in a language model",
)
class BidirectionalLanguageModel(RecurrentLM):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(WIDTH, WIDTH // 2, batch_first=True, bidirectional=True)

    def start(self, x: Tensor) -> Tensor:
        return x.new_zeros(2, len(x), WIDTH // 2)


@planted(
    "batch_independence[forward]",
    task=CAUSAL,
    sound=RecurrentLM,
    module="gru",
    source=f"{PYTORCH}: RNNs read sequences first by default",
)
class BatchFirstForgotten(RecurrentLM):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(WIDTH, WIDTH)

    def start(self, x: Tensor) -> Tensor:
        return x.new_zeros(1, x.shape[1], WIDTH)


@planted(
    "causal",
    task=CAUSAL,
    sound=ConvolutionalLM,
    module="far",
    source="van den Oord et al. 2016, WaveNet: causal convolutions pad on the left",
)
class CentredConvolution(ConvolutionalLM):
    def pad_far(self, x: Tensor) -> Tensor:
        return F.pad(x, (2, 2))


@planted(
    "causal",
    task=CAUSAL,
    sound=ConvolutionalLM,
    module="far",
    source="van den Oord et al. 2016, WaveNet: causal convolutions pad on the left",
)
class PaddingOneShort(ConvolutionalLM):
    def pad_far(self, x: Tensor) -> Tensor:
        return F.pad(x, (3, 1))


@planted("padding_ignored", task=TEXT, sound=LstmClassifier, module="lstm", source=f"{PYTORCH}: pack_padded_sequence")
class LastStateWithoutPacking(LstmClassifier):
    def read(self, x: Tensor, lengths: Tensor) -> Tensor:
        _, (last, _) = self.lstm(x)
        return torch.cat((last[0], last[1]), -1)


@planted(
    "gradient_flow[reaches_every_parameter]",
    task=TEXT,
    sound=LstmClassifier,
    module="lstm",
    source=f"{ISLAM}: the wrong state read",
)
class BackwardDirectionDropped(LstmClassifier):
    def read(self, x: Tensor, lengths: Tensor) -> Tensor:
        forward, _ = super().read(x, lengths).chunk(2, -1)
        return torch.cat((forward, forward), -1)


@planted(
    "finite_output[fully_padded_row]",
    task=TEXT,
    sound=LstmClassifier,
    module="(model)",
    source=f"{PYTORCH}: pack_padded_sequence refuses length 0",
)
class PackedWithLengthZero(LstmClassifier):
    def read(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, (last, _) = self.lstm(packed)
        return torch.cat((last[0], last[1]), -1)


@planted(
    "batch_independence[forward]",
    task=TEXT,
    sound=LstmClassifier,
    module="(model)",
    source=f"{PYTORCH}: pack_padded_sequence sorts the rows",
    also=("batch_independence[gradient]",),
)
class RowsLeftSorted(LstmClassifier):
    def read(self, x: Tensor, lengths: Tensor) -> Tensor:
        order = x[:, 0, 0].argsort(descending=True)
        return super().read(x[order], lengths[order])
