"""Reported bugs of sizes, of rows without content and of texts without an end: the ninth draw."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.planted_bugs.setups import Model

from .register import FirstRun, pair_of_one_class, task_of

BANDS, SOUNDS, WIDTH, WORDS, END, PATCH, GRID, SERIES, PAST, AHEAD = 6, 5, 12, 23, 1, 2, 11, 3, 16, 4
PHOTOS = task_of(
    inputs={
        "image": {"axes": ["batch", 10]},
        "tokens": {"axes": ["batch", "time"], "values": {"ids": WORDS}},
    },
    outputs={"scores": {"axes": ["batch", "time", WORDS], "kind": "token_scores"}},
    axes={"time": {"min": 1, "max": 12, "order": "causal"}},
)
TEXTS = task_of(
    inputs={
        "tokens": {"axes": ["batch", "time"], "values": {"ids": WORDS, "pad": 0}},
        "seq_lens": {"axes": ["batch"], "values": {"lengths_of": "time"}},
    },
    outputs={"scores": {"axes": ["batch", "time", WORDS], "kind": "class_scores"}},
    axes={"time": {"min": 1, "max": 10, "padding": "right"}},
)
WEATHER = task_of(
    inputs={"past": {"axes": ["batch", PAST, SERIES]}}, outputs={"next": {"axes": ["batch", AHEAD, SERIES], "kind": "values"}}
)
ONE_OF_SERIES = task_of(
    inputs={"past": {"axes": ["batch", SERIES, PAST]}}, outputs={"next": {"axes": ["batch", AHEAD], "kind": "values"}}
)
PIXELS = task_of(
    inputs={"image": {"axes": ["batch", 3, "height", "width"]}},
    outputs={"classes": {"axes": ["batch", 4], "kind": "class_scores"}},
    axes={name: {"min": 8, "max": 40, "multiple_of": PATCH} for name in ("height", "width")},
)
SPEECH = task_of(
    inputs={"bands": {"axes": ["batch", "frames", BANDS]}, "lengths": {"axes": ["batch"], "values": {"lengths_of": "frames"}}},
    outputs={
        "letters": {"axes": ["batch", "out", SOUNDS], "kind": "ctc_scores"},
        "olens": {"axes": ["batch"], "kind": "lengths", "of": "out"},
    },
    axes={"frames": {"min": 15, "max": 40, "padding": "right"}, "out": {"from": "((frames - 3) // 2 + 1 - 3) // 2 + 1"}},
)


class Captioner(nn.Module):
    """Captions of images by a search of three beams; the bug chooses among those that ended, of which there may be none."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.encoder, self.embedding = nn.Linear(10, WIDTH), nn.Embedding(WORDS, WIDTH)
        self.decode_step, self.fc = nn.GRU(WIDTH, WIDTH, batch_first=True), nn.Linear(WIDTH, WORDS)

    def forward(self, image: Tensor, tokens: Tensor) -> Tensor:
        return self.fc(self.decode_step(self.embedding(tokens), self.encoder(image).tanh()[None])[0])

    @torch.no_grad()
    def generate(self, image: Tensor, tokens: Tensor, max_new_tokens: int = 6, beam_size: int = 3) -> Tensor:
        rows = [self.caption(*row, max_new_tokens, beam_size) for row in zip(image.split(1), tokens.split(1), strict=True)]
        longest = max(map(len, rows))
        return torch.stack([F.pad(row, (0, longest - len(row)), value=END) for row in rows])

    def caption(self, image: Tensor, tokens: Tensor, steps: int, beam_size: int) -> Tensor:
        beams: list[tuple[float, Tensor]] = [(0.0, tokens[0])]
        complete: list[tuple[float, Tensor]] = []
        for _ in range(steps):
            found = []
            for score, words in beams:
                logps, following = self(image, words[None])[0, -1].log_softmax(-1).topk(beam_size)
                found += [(score + float(p), torch.cat([words, w[None]])) for p, w in zip(logps, following, strict=True)]
            found.sort(key=lambda each: -each[0])
            beams = [each for each in found if each[1][-1] != END][:beam_size]
            complete += [each for each in found[:beam_size] if each[1][-1] == END]
        scores = [score for score, _ in (complete if self.wrong else complete or beams)]
        return (complete or beams)[scores.index(max(scores))][1]


def images_without_a_caption(model: Any) -> float:
    """The share of images for which no caption is given."""
    refused = 0
    for _ in range(8):
        try:
            model.generate(torch.randn(1, 10), torch.randint(2, WORDS, (1, 1)))
        except ValueError:
            refused += 1
    return refused / 8


class Buckets(nn.Module):
    """Attention over texts in batches of four rows, filled up; the bug says that rows which only fill up have no token."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.embed, self.qkv, self.head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WORDS)

    def forward(self, tokens: Tensor, seq_lens: Tensor) -> Tensor:
        rows, length = tokens.shape
        fill = -rows % 4
        tokens = F.pad(tokens, (0, 0, 0, fill))
        seq_lens = F.pad(seq_lens, (0, fill), value=0 if self.wrong else 1)
        real = torch.arange(length, device=tokens.device) < seq_lens[:, None]
        query, key, value = self.qkv(self.embed(tokens)).chunk(3, -1)
        scores = (query @ key.transpose(1, 2)).masked_fill(~real[:, None], -torch.inf)
        x = (scores.softmax(-1) @ value).flatten(0, 1)
        query, key, value = self.qkv(x).chunk(3, -1)
        row = torch.arange(len(seq_lens), device=x.device).repeat_interleave(length)
        seen = (row[:, None] == row) & real.flatten()
        seen = seen | torch.eye(len(row), dtype=torch.bool, device=x.device)
        pool = (query @ key.T).masked_fill(~seen, -torch.inf).softmax(-1) @ value
        return self.head(pool.view(-1, length, WIDTH)[:rows])


@torch.no_grad()
def undefined_in_a_batch_of_three(model: nn.Module) -> float:
    """Whether any score of three texts is undefined."""
    return float(model(torch.randint(1, WORDS, (3, 6)), torch.tensor([6, 5, 4])).isnan().any())


class Forecaster(nn.Module):
    """The next hours of several fields, each standardised by its own past; the bug divides by a deviation that is zero in a dry spell."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.mix, self.ahead = wrong, nn.Linear(SERIES, SERIES), nn.Linear(PAST, AHEAD)

    def forward(self, past: Tensor) -> Tensor:
        mean, std = past.mean(1, keepdim=True), past.std(1, keepdim=True)
        std_safe = std if self.wrong else std.clamp(min=1e-2)
        state = (past - mean) / std_safe
        return self.ahead(self.mix(state).tanh().transpose(1, 2)).transpose(1, 2) * std_safe + mean


@torch.no_grad()
def undefined_in_a_dry_spell(model: nn.Module) -> float:
    """Whether a forecast is undefined where one field was zero all the time."""
    past = torch.randn(2, PAST, SERIES)
    past[:, :, 1] = 0
    return float(model(past).isnan().any())


class Registers(nn.Module):
    """A transformer of patches whose places are resized to the image; the bug says how many times larger, and not how large."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.projection = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.places = nn.Parameter(torch.randn(1, WIDTH, GRID, GRID) / 4)
        self.layer, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4)

    def interpolate_pos_encoding(self, height: int, width: int) -> Tensor:
        if self.wrong:
            scale = (height / GRID, width / GRID)
            return F.interpolate(self.places, scale_factor=scale, mode="bicubic", align_corners=False)
        return F.interpolate(self.places, size=(height, width), mode="bicubic", align_corners=False)

    def forward(self, image: Tensor) -> Tensor:
        x = self.projection(image)
        x = x + self.interpolate_pos_encoding(x.shape[2], x.shape[3])
        return self.head(self.layer(x.flatten(2).transpose(1, 2)).tanh().mean(1))


def sizes_that_are_refused(model: nn.Module) -> float:
    """The share of heights that cannot be read."""
    refused, heights = 0, range(8, 41, PATCH)
    for height in heights:
        try:
            model(torch.randn(1, 3, height, 16))
        except RuntimeError:
            refused += 1
    return refused / len(heights)


class Subsampling(nn.Module):
    """A recogniser of a quarter of the frames; the bug cuts the mask at the end of the batch, where short rows are padding anyway."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.conv = nn.Sequential(nn.Conv1d(BANDS, WIDTH, 3, 2), nn.ReLU(), nn.Conv1d(WIDTH, WIDTH, 3, 2), nn.ReLU())
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, SOUNDS)

    def forward(self, bands: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        real = torch.arange(bands.shape[1], device=bands.device) < lengths[:, None]
        x = self.conv((bands * real[..., None]).transpose(1, 2)).transpose(1, 2)
        if self.wrong:
            mask = real[:, :-2:2][:, :-2:2]
        else:
            mask = torch.arange(x.shape[1], device=x.device) < self.shortened(self.shortened(lengths))[:, None]
        query, key, value = self.qkv(x).chunk(3, -1)
        scores = (query @ key.transpose(1, 2)).masked_fill(~mask[:, None], -1e4)
        return self.out((x + scores.softmax(-1) @ value) * mask[..., None]), mask.sum(1)

    def shortened(self, lengths: Tensor) -> Tensor:
        return ((lengths - 3) // 2 + 1).clamp(min=0)


@torch.no_grad()
def longer_beside_a_longer_one(model: nn.Module) -> float:
    """By how many frames a recording is longer in a batch with a longer one."""
    bands = torch.randn(2, 36, BANDS)
    alone = model(bands[1:, :28], torch.tensor([28]))[1]
    beside = model(bands, torch.tensor([36, 28]))[1][1:]
    return float((beside - alone).abs())


class PatchForecaster(nn.Module):
    """Patches of several series, and a forecast of one of them; the bug gives one of each."""

    def __init__(self, wrong: bool = False, c_in: int = SERIES, c_out: int = 1) -> None:
        super().__init__()
        self.wrong, self.patch = wrong, nn.Linear(4, WIDTH)
        self.mix, self.head, self.pick = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH * PAST // 4, AHEAD), nn.Linear(c_in, c_out)

    def forward(self, past: Tensor) -> Tensor:
        x = self.patch(past.unfold(-1, 4, 4))
        x = self.head((x + self.mix(x).relu()).flatten(-2))
        return x if self.wrong else self.pick(x.transpose(1, 2)).squeeze(-1)


@torch.no_grad()
def no_loss_for_one_series(model: nn.Module) -> float:
    """Whether the forecast has not as many numbers as the one series that is asked for."""
    return float(model(torch.randn(5, SERIES, PAST)).numel() != 5 * AHEAD)


add = partial(pair_of_one_class, judge=Model, draw=9, long=True)
add(
    "no_beam_has_ended",
    "The best of the beams that ended is asked for, where none may have ended",
    "sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning#18",
    "vision",
    "decoding[generate]",
    Captioner,
    images_without_a_caption,
    PHOTOS,
    area="decoding",
    line="scores.index(max(scores))",
    first_run=FirstRun(
        "c9711093",
        found=False,
        named=False,
        said="skipped: an image beside the prompt is taken for the source of a text without one, so that generate cannot be called",
    ),
)
add(
    "rows_of_length_zero_fill_up",
    "Rows that only fill a batch up have no token to look at, and what they hold is undefined",
    "HabanaAI/vllm-fork#318",
    "text",
    "finite_output[typical]",
    Buckets,
    undefined_in_a_batch_of_three,
    TEXTS,
    area="contents",
    or_tests=("batch_independence[forward]", "padding_ignored"),
    line="scores.softmax(-1)",
    first_run=FirstRun("c9711093", found=True, named=True, said="finite_output[typical] fails, with the line of the softmax"),
)
add(
    "deviation_of_a_dry_spell",
    "Fields are divided by their deviation, which is zero where a field is constant",
    "mllam/neural-lam#189",
    "forecasting",
    "rare_contents[flat_rows]",
    Forecaster,
    undefined_in_a_dry_spell,
    WEATHER,
    area="contents",
    or_tests=("finite_output[extremes]",),
    line="/ std_safe",
    first_run=FirstRun(
        "c9711093",
        found=True,
        named=False,
        said="rare_contents[flat_rows] fails, with the line after the division; finite_output[extremes] names the division",
    ),
    unnamed="names the last line that is undefined; finite_output[extremes] names the division",
)
add(
    "places_scaled_by_a_factor",
    "Positions are resized by a factor, by which some sizes come out one place too small",
    "huggingface/transformers#35411",
    "vision",
    "shape_contract",
    Registers,
    sizes_that_are_refused,
    PIXELS,
    area="axes",
    line="self.interpolate_pos_encoding(",
    first_run=FirstRun("c9711093", found=True, named=True, said="shape_contract fails, with the line of the sum"),
)
add(
    "mask_cut_at_the_end_of_the_batch",
    "The mask is made shorter by cutting the end of the batch, so that short rows come out too long",
    "espnet/espnet#6633",
    "speech",
    "padding_ignored",
    Subsampling,
    longer_beside_a_longer_one,
    SPEECH,
    area="axes",
    or_tests=("batch_independence[forward]",),
    line="real[:, :-2:2]",
    first_run=FirstRun("c9711093", found=True, named=False, said="padding_ignored fails, with the line that reads the mask"),
    unnamed="names the line that returns what the mask was used for",
)
add(
    "forecast_of_each_series",
    "A forecast of one series is asked for, and one of each comes out",
    "timeseriesAI/tsai#738",
    "forecasting",
    "shape_contract",
    PatchForecaster,
    no_loss_for_one_series,
    ONE_OF_SERIES,
    area="axes",
    or_tests=("declared_outputs",),
    line="return x if",
    first_run=FirstRun("c9711093", found=True, named=False, said="shape_contract fails, with the line of the head"),
    unnamed="names the head, after which a step is missing",
)
