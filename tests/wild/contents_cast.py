"""Reported bugs of contents: a column without variance, padding among the statistics of a sound, a mask of another dtype, a mask not taken."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.planted_bugs.setups import Model

from .register import FirstRun, pair_of_one_class, task_of

VOCAB, WIDTH, BANDS, CLASSES, LENGTH = 29, 16, 5, 4, 16
TABLE = task_of(task_type="tabular_classification", num_features=6, num_classes=3)
SPOKEN = task_of(
    inputs={"sound": {"axes": ["batch", "time", BANDS]}, "lengths": {"axes": ["batch"], "values": {"lengths_of": "time"}}},
    outputs={"phones": {"axes": ["batch", "time", CLASSES], "kind": "class_scores"}},
    axes={"time": {"min": 2, "max": 12, "padding": "right"}},
)
SPEAKERS = task_of(
    inputs={"sound": {"axes": ["batch", "time", BANDS]}, "lengths": {"axes": ["batch"], "values": {"lengths_of": "time"}}},
    outputs={"speaker": {"axes": ["batch", CLASSES], "kind": "class_scores"}},
    axes={"time": {"min": 2, "max": 12, "padding": "right"}},
)
PROMPTS = task_of(
    inputs={
        "input_ids": {"axes": ["batch", "time"], "values": {"ids": VOCAB, "pad": 0}},
        "attention_mask": {"axes": ["batch", "time"], "values": {"mask_of": "time"}},
    },
    outputs={"logits": {"axes": ["batch", "time", VOCAB], "kind": "token_scores"}},
    axes={"time": {"max": LENGTH, "order": "causal", "padding": "left"}},
)


class Standardised(nn.Module):
    """Columns of a table, brought to mean 0 and deviation 1 by those of a dataset; the bug divides by the deviation of a flat column."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        rows = torch.linspace(-1, 1, 32)[:, None] * torch.arange(1.0, 7.0)
        rows[:, 1] = 0.5
        deviation = rows.std(0)
        self.register_buffer("mean", rows.mean(0))
        self.register_buffer("deviation", deviation if wrong else deviation.where(deviation > 0, torch.ones(6)))

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.deviation


class Perceptron(nn.Module):
    """Classes of rows."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.standard, self.net = Standardised(wrong), nn.Sequential(nn.Linear(6, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 3))

    def forward(self, features: Tensor) -> Tensor:
        return self.net(self.standard(features))


def undefined_rows(model: Any) -> float:
    """The share of scores that are no numbers, of rows like those of the dataset."""
    features = torch.randn(16, 6)
    features[:, 1] = 0.5
    with torch.no_grad():
        return float((~model(features).isfinite()).float().mean())


class Normal(nn.Module):
    """Brings each band of a sound to mean 0 and deviation 1; the bug counts the padding."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong

    def forward(self, sound: Tensor, real: Tensor) -> Tensor:
        weight = torch.ones_like(real) if self.wrong else real
        count = weight.sum(1, keepdim=True).clamp(min=1)
        mean = (sound * weight).sum(1, keepdim=True) / count
        spread = ((sound - mean).square() * weight).sum(1, keepdim=True) / count
        return (sound - mean) / (spread + 1e-5).sqrt() * real


class Phones(nn.Module):
    """A phone for each frame."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.normal, self.enter, self.leave = Normal(wrong), nn.Linear(BANDS, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, sound: Tensor, lengths: Tensor) -> Tensor:
        real = (torch.arange(sound.shape[1], device=sound.device) < lengths[:, None])[..., None].to(sound.dtype)
        return self.leave(self.enter(self.normal(sound, real)).tanh())


def change_by_silence(model: Any) -> float:
    """How far the phones of a sound move with silence behind it."""
    sound, lengths = torch.randn(1, 6, BANDS) + 2, torch.tensor([6])
    with torch.no_grad():
        return float((model(F.pad(sound, (0, 0, 0, 4)), lengths)[:, :6] - model(sound, lengths)).abs().max())


class StatisticsPooling(nn.Module):
    """Mean and deviation of the frames; the bug makes its mask in single precision whatever the sound is in."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.out = wrong, nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        mask = (torch.arange(x.shape[1], device=x.device) < lengths[:, None])[..., None].float()
        if not self.wrong:
            mask = mask.to(x.dtype)
        share = mask / mask.sum(1, keepdim=True).clamp(min=1)
        mean = (x * share).sum(1)
        spread = ((x - mean[:, None]).square() * share).sum(1)
        return self.out(torch.cat([mean, (spread + 1e-5).sqrt()], 1))


class Speakers(nn.Module):
    """Who speaks."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.enter, self.pool, self.head = nn.Linear(BANDS, WIDTH), StatisticsPooling(wrong), nn.Linear(WIDTH, CLASSES)

    def forward(self, sound: Tensor, lengths: Tensor) -> Tensor:
        return self.head(self.pool(self.enter(sound).tanh(), lengths))


def fails_in_half_precision(model: Any) -> float:
    """Whether the model refuses a sound in half precision."""
    try:
        model.bfloat16()(torch.randn(2, 6, BANDS, dtype=torch.bfloat16), torch.tensor([6, 4]))
    except RuntimeError:
        return 1.0
    return 0.0


class Fused(nn.Module):
    """Causal attention in one call; the bug takes a fast way that has no argument for a mask."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.enter, self.leave = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        query, key, value = (part.unflatten(2, (2, -1)).transpose(1, 2) for part in self.enter(x).chunk(3, 2))
        if self.wrong:
            seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            time = x.shape[1]
            before = torch.ones(time, time, dtype=torch.bool, device=x.device).tril()
            own = torch.eye(time, dtype=torch.bool, device=x.device)
            seen = F.scaled_dot_product_attention(query, key, value, attn_mask=((before & real[:, None]) | own)[:, None])
        return self.leave(seen.transpose(1, 2).flatten(2))


class Llama(nn.Module):
    """A decoder whose positions begin behind the padding."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCAB, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.attention, self.head = Fused(wrong), nn.Linear(WIDTH, VOCAB)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.tokens(input_ids) + self.places((attention_mask.long().cumsum(1) - 1).clamp(min=0))
        return self.head(x + self.attention(x, attention_mask.bool()))


def change_before_a_prompt(model: Any) -> float:
    """How far the scores of a prompt move with padding before it."""
    ids, padding = torch.randint(1, VOCAB, (1, 6)), torch.zeros(1, 3, dtype=torch.long)
    ones = torch.ones_like(ids)
    with torch.no_grad():
        padded = model(torch.cat([padding, ids], 1), torch.cat([padding, ones], 1))
        return float((padded[:, 3:] - model(ids, ones)).abs().max())


add = partial(pair_of_one_class, area="contents", judge=Model, draw=4, long=True)
add(
    "column_without_variance",
    "A column that never changes is divided by its deviation of zero",
    "autogluon/autogluon#4508",
    "tables",
    "finite_output[typical]",
    Perceptron,
    undefined_rows,
    TABLE,
    or_tests=("finite_output[extremes]", "gradient_flow[finite]"),
    module="standard",
    unnamed="the first module whose output is NaN is named, to which infinite numbers come",
    first_run=FirstRun(
        "79f3b8c", found=True, named=False, said="finite_output[typical] fails in net.0, to which infinite numbers come"
    ),
)
add(
    "silence_in_the_statistics",
    "Mean and deviation of the bands of a sound count the padding behind it",
    "scart97/thunder-speech#92",
    "speech",
    "padding_ignored",
    Phones,
    change_by_silence,
    SPOKEN,
    module="normal",
    first_run=FirstRun("79f3b8c", found=True, named=True, said="padding_ignored fails in normal, with its line"),
)
add(
    "mask_in_single_precision",
    "A mask is made in single precision and makes features of half precision single again, which the next layer refuses",
    "speechbrain/speechbrain#2544",
    "speech",
    "dtype_move[bfloat16]",
    Speakers,
    fails_in_half_precision,
    SPEAKERS,
    or_tests=("dtype_move[float16]",),
    module="pool",
    first_run=FirstRun("79f3b8c", found=True, named=True, said="dtype_move[bfloat16] and [float16] fail in pool.out"),
)
add(
    "fast_attention_without_a_mask",
    "The fast way of attention takes no mask, so that short prompts of a batch read the padding before them",
    "turboderp-org/exllamav2#200",
    "text",
    "padding_ignored",
    Llama,
    change_before_a_prompt,
    PROMPTS,
    area="decoding",
    or_tests=("decoding[left_padding]",),
    module="attention",
    first_run=FirstRun("79f3b8c", found=True, named=True, said="padding_ignored fails in attention"),
)
