"""Reported bugs of axes that are taken for each other: rows that mix, and places that are counted along the batch."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.planted_bugs.setups import Model

from .register import FirstRun, pair_of_one_class, task_of

WORDS, WIDTH, CLASSES = 23, 12, 4
TEXTS = task_of(
    inputs={"words": {"axes": ["batch", "time"], "values": {"ids": WORDS}}},
    outputs={"scores": {"axes": ["batch", CLASSES], "kind": "class_scores"}},
    axes={"time": {"min": 2, "max": 9}},
)
SPEECH = task_of(
    inputs={"frames": {"axes": ["batch", "time", 5]}},
    outputs={"scores": {"axes": ["batch", CLASSES], "kind": "class_scores"}},
    axes={"time": {"min": 2, "max": 9}},
)
SAMPLES = task_of(
    inputs={"samples": {"axes": ["batch", "time"], "values": {"ids": WORDS}}},
    outputs={"next": {"axes": ["batch", "time", WORDS], "kind": "token_scores"}},
    axes={"time": {"max": 24, "order": "causal"}},
)
SERIES = task_of(
    inputs={"series": {"axes": ["batch", "time", 3]}},
    outputs={"forecast": {"axes": ["batch", 2], "kind": "values"}},
    axes={"time": {"min": 2, "max": 12}},
)
NOISY = task_of(
    inputs={"sample": {"axes": ["batch", 8]}, "step": {"axes": ["batch"], "values": {"ids": 50}}},
    outputs={"noise": {"axes": ["batch", 8], "kind": "values"}},
)


class Attention(nn.Module):
    """The mean of some places, weighted by a query; the bug lets the weights of the texts of a batch add up to 1, not those of the places."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.query, self.softmax = nn.Linear(WIDTH, 1), nn.Softmax(dim=0 if wrong else -1)

    def forward(self, places: Tensor) -> Tensor:
        return (self.softmax(self.query(places)[..., 0])[..., None] * places).sum(1)


class Attended(nn.Module):
    """A text classifier with such an attention."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.words, self.attention, self.head = nn.Embedding(WORDS, WIDTH), Attention(wrong), nn.Linear(WIDTH, CLASSES)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.attention(self.words(words)))


class BothWays(nn.Module):
    """A classifier by the last states of both directions; the bug views them as if the batch stood first."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.words, self.net = nn.Embedding(WORDS, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * WIDTH, CLASSES)

    def forward(self, words: Tensor) -> Tensor:
        hidden = self.net(self.words(words))[1]
        rows = hidden.view(len(words), -1) if self.wrong else hidden.transpose(0, 1).flatten(1)
        return self.head(rows)


def change_by_another_text(model: nn.Module) -> float:
    """How much the scores of a text change with the text beside it."""
    first, second, third = torch.randint(WORDS, (3, 6))
    with torch.no_grad():
        return float((model(torch.stack([first, second])) - model(torch.stack([first, third])))[0].abs().max())


class LocationAttention(nn.Module):
    """The mean of frames by a score of each; the bug squeezes every axis of one element, the batch too."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.memory, self.score = wrong, nn.Linear(5, WIDTH), nn.Linear(WIDTH, 1, bias=False)

    def forward(self, frames: Tensor) -> Tensor:
        memory = self.memory(frames)
        energies = self.score(memory.tanh())
        energies = energies.squeeze() if self.wrong else energies.squeeze(-1)
        return torch.bmm(energies.softmax(-1).unsqueeze(1), memory).squeeze(1)


class Listener(nn.Module):
    """A classifier of speech with such an attention."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.attention, self.head = LocationAttention(wrong), nn.Linear(WIDTH, CLASSES)

    def forward(self, frames: Tensor) -> Tensor:
        return self.head(self.attention(frames))


def refused_alone(model: nn.Module) -> float:
    """Whether a recording alone is refused."""
    try:
        return float(model(torch.randn(1, 7, 5)).shape != (1, CLASSES))
    except RuntimeError:
        return 1.0


class DilatedLayer(nn.Module):
    """A gated, dilated convolution of three samples; the bug fills up both sides, so that it reads one dilation ahead."""

    def __init__(self, wrong: bool, dilation: int) -> None:
        super().__init__()
        self.left = 0 if wrong else 2 * dilation
        self.conv = nn.Conv1d(WIDTH, 2 * WIDTH, 3, dilation=dilation, padding=dilation if wrong else 0)

    def forward(self, x: Tensor) -> Tensor:
        signal, gate = self.conv(F.pad(x, (self.left, 0))).chunk(2, 1)
        return x + signal.tanh() * gate.sigmoid()


class WaveNet(nn.Module):
    """Three such layers over samples of sound."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.samples, self.head = nn.Embedding(WORDS, WIDTH), nn.Conv1d(WIDTH, WORDS, 1)
        self.layers = nn.Sequential(*(DilatedLayer(wrong, 2**power) for power in range(3)))

    def forward(self, samples: Tensor) -> Tensor:
        return self.head(self.layers(self.samples(samples).transpose(1, 2))).transpose(1, 2)


def change_by_a_later_sample(model: nn.Module) -> float:
    """How much the scores at the first samples change with the last one."""
    samples = torch.randint(WORDS - 1, (1, 12))
    with torch.no_grad():
        before = model(samples)[:, :6]
        samples[:, 6] += 1
        return float((model(samples)[:, :6] - before).abs().max())


class Places(nn.Module):
    """Sines of the places in a series; the bug keeps the axes of a series whose time stands first."""

    table: Tensor

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        place, rate = torch.arange(12.0)[:, None], 10.0 ** (-torch.arange(WIDTH) / 4)
        table = (place * rate).sin()[:, None]
        self.register_buffer("table", table if wrong else table.transpose(0, 1))
        self.wrong = wrong

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.table[: x.shape[1]] if self.wrong else self.table[:, : x.shape[1]])


class Influenza(nn.Module):
    """A transformer over a series, the batch first."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.enter, self.places, self.head = nn.Linear(3, WIDTH), Places(wrong), nn.Linear(WIDTH, 2)
        self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, batch_first=True, dropout=0.0)

    def forward(self, series: Tensor) -> Tensor:
        return self.head(self.layer(self.places(self.enter(series))).mean(1))


def refused_batch(model: nn.Module) -> float:
    """Whether three series of seven values are refused."""
    try:
        return float(model(torch.randn(3, 7, 3)).shape != (3, 2))
    except RuntimeError:
        return 1.0


class Steps(nn.Module):
    """Sines and cosines of a step; the bug alternates them along the batch."""

    def forward(self, step: Tensor, wrong: bool) -> Tensor:
        angle = step[:, None] * 50.0 ** (-torch.arange(WIDTH, device=step.device) / WIDTH)
        along = angle if wrong else angle.T
        turn = torch.arange(len(along), device=step.device)[:, None] % 2 == 0
        found = torch.where(turn, along.sin(), along.cos())
        return found if wrong else found.T


class Denoiser(nn.Module):
    """A denoiser that is told the step."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.steps = wrong, Steps()
        self.enter, self.mix, self.leave = nn.Linear(8, 16), nn.Linear(WIDTH, 16), nn.Linear(16, 8)

    def forward(self, sample: Tensor, step: Tensor) -> Tensor:
        return self.leave((self.enter(sample) + self.mix(self.steps(step, self.wrong).to(sample.dtype))).tanh())


def change_by_its_row(model: nn.Module) -> float:
    """How much the noise that is found changes when the rows of a batch are turned round."""
    sample, step = torch.randn(2, 8), torch.tensor([7, 20])
    with torch.no_grad():
        return float((model(sample, step) - model(sample.flip(0), step.flip(0)).flip(0)).abs().max())


add = partial(pair_of_one_class, area="axes", judge=Model, draw=3)
add(
    "softmax_over_the_batch",
    "The weights of an attention are normalised over the texts of a batch, so that a text alone has weights of 1",
    "PetrochukM/PyTorch-NLP#2",
    "text",
    "batch_independence[forward]",
    Attended,
    change_by_another_text,
    TEXTS,
    or_tests=("batch_independence[gradient]",),
    module="attention",
    first_run=FirstRun("039188d", found=True, named=True, said="batch_independence[forward] fails in attention.softmax"),
)
add(
    "directions_viewed_as_rows",
    "The last states of two directions are viewed as if the batch stood first, so that a row has states of others",
    "timbmg/Sentence-VAE#15",
    "text",
    "batch_independence[forward]",
    BothWays,
    change_by_another_text,
    TEXTS,
    or_tests=("batch_independence[gradient]",),
    module="(model)",
    first_run=FirstRun(
        "039188d",
        found=True,
        named=False,
        said="batch_independence[forward] fails in net, whose states the model's own forward views wrongly, with the line of that",
    ),
)
add(
    "squeezed_batch_of_one",
    "squeeze() without an axis takes away the batch where it has one row",
    "NVIDIA/tacotron2#303",
    "speech",
    "shape_contract",
    Listener,
    refused_alone,
    SPEECH,
    module="attention",
    first_run=FirstRun("039188d", found=True, named=True, said="shape_contract fails in attention, with its line"),
)
add(
    "dilated_on_both_sides",
    "A causal convolution is filled up on both sides, so that each layer reads one dilation ahead",
    "golbin/WaveNet#5",
    "speech",
    "causal",
    WaveNet,
    change_by_a_later_sample,
    SAMPLES,
    module="layers.0",
    first_run=FirstRun("039188d", found=True, named=True, said="causal fails in layers.0.conv"),
)
add(
    "places_with_time_first",
    "Position encodings keep the axes of a series whose time stands first, and do not fit one whose batch does",
    "KasperGroesLudvigsen/influenza_transformer#9",
    "forecasting",
    "shape_contract",
    Influenza,
    refused_batch,
    SERIES,
    or_tests=("batch_independence[forward]",),
    module="places",
    first_run=FirstRun("039188d", found=True, named=True, said="shape_contract fails in places, with its line"),
)
add(
    "sines_along_the_batch",
    "Sine and cosine of a step alternate along the batch and not along the embedding",
    "gmongaras/Diffusion_models_from_scratch#10",
    "diffusion",
    "batch_independence[forward]",
    Denoiser,
    change_by_its_row,
    NOISY,
    module="steps",
    first_run=FirstRun("039188d", found=True, named=True, said="batch_independence[forward] fails in steps"),
)
