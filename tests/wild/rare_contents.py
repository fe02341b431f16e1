"""Reported bugs at contents that random inputs hardly have: flat series, equal rows, the id of padding as a real token, one class."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.evidence import Status
from tests.planted_bugs.setups import Model

from .register import task_of, wild

VOCAB, WIDTH, WINDOW = 23, 16, 16
SERIES = task_of(inputs={"series": {"axes": ["batch", WINDOW]}}, outputs={"forecast": {"axes": ["batch"]}})
TEXT = task_of(
    inputs={
        "input_ids": {"axes": ["batch", "time"], "values": {"ids": VOCAB, "pad": 0}},
        "attention_mask": {"axes": ["batch", "time"], "values": {"mask_of": "time"}},
    },
    outputs={"logits": {"axes": ["batch", "time", VOCAB], "kind": "token_scores"}},
    axes={"time": {"min": 2, "max": 12, "order": "causal", "padding": "right"}},
)
PAIR = task_of(
    inputs={
        "left": {"axes": ["batch", "time"], "values": {"ids": VOCAB}},
        "right": {"axes": ["batch", "time"], "values": {"ids": VOCAB}},
    },
    outputs={"similarity": {"axes": ["batch"]}},
    axes={"time": {"min": 2, "max": 9}},
)
FLAT = 1e-6


class Forecaster(nn.Module):
    """Scales a window, forecasts and scales back; the bug guards a small deviation in one direction only."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.net = nn.Sequential(nn.Linear(WINDOW, 32), nn.GELU(), nn.Linear(32, 1))

    def forward(self, series: Tensor) -> Tensor:
        centre = series.mean(1, keepdim=True)
        square = (series - centre).square().mean(1, keepdim=True)
        is_flat = square < FLAT**2
        safe = torch.where(is_flat, 1.0, square).sqrt()
        forecast = self.net((series - centre) / safe)
        back = torch.where(is_flat, 0.0, safe) if self.wrong else safe
        return (forecast * back + centre).squeeze(1)


def change_of_a_quiet_forecast(model: nn.Module) -> float:
    """How much of what the network says of a flat series is missing in its forecast."""
    flat = torch.full((1, WINDOW), 3.0)
    with torch.no_grad():
        return float((model(flat) - 3.0 - model.net(torch.zeros(1, WINDOW))[:, 0]).abs())


wild(
    "quiet_series_silenced",
    title="Reversible normalisation multiplies the forecast of a quiet series by a deviation of zero",
    report="google-research/timesfm#522",
    area="contents",
    field="forecasting",
    test="rare_contents[flat_rows]",
    setup=partial(Model, SERIES),
    buggy=partial(Forecaster, True),
    sound=Forecaster,
    wrong=change_of_a_quiet_forecast,
)


class Deviations(nn.Module):
    """A forecast from the mean and the deviation of a window; the bug takes the root of a variance that may be zero."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.scale, self.net = nn.Linear(WINDOW, WINDOW), nn.Linear(2, 1)

    def forward(self, series: Tensor) -> Tensor:
        scaled = series * self.scale(torch.ones_like(series))[:, :1]
        centre = scaled.mean(1)
        variance = (scaled - centre[:, None]).square().mean(1)
        deviation = variance.clamp(min=0.0 if self.wrong else 1e-8).sqrt()
        return centre + self.net(torch.stack([centre, deviation], 1)).squeeze(1)


def gradient_is_nan(model: nn.Module) -> float:
    """1 where a flat series makes a gradient NaN."""
    model.zero_grad()
    model(torch.full((2, WINDOW), 0.5)).sum().backward()
    return float(any(bool(p.grad.isnan().any()) for p in model.parameters() if p.grad is not None))


wild(
    "root_of_no_variance",
    title="The root of a variance of exactly zero makes the gradient NaN",
    report="google-research/timesfm#507",
    area="contents",
    field="forecasting",
    test="gradient_flow[finite]",
    setup=partial(Model, SERIES),
    buggy=partial(Deviations, True),
    sound=Deviations,
    wrong=gradient_is_nan,
)


class Similarity(nn.Module):
    """The distance of the means of two texts; the bug differentiates a root at zero where both are the same."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.words = nn.Embedding(VOCAB, WIDTH)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        apart = self.words(left).mean(1) - self.words(right).mean(1)
        return -(apart.square().sum(1).sqrt() if self.wrong else torch.linalg.vector_norm(apart, dim=1))


def gradient_of_equal_texts(model: nn.Module) -> float:
    """1 where two equal texts make a gradient NaN."""
    ids = torch.randint(VOCAB, (2, 5))
    model.zero_grad()
    model(ids, ids).sum().backward()
    return float(any(bool(p.grad.isnan().any()) for p in model.parameters() if p.grad is not None))


wild(
    "distance_of_equal_texts",
    title="The distance of two equal embeddings has a gradient of NaN",
    report="huggingface/sentence-transformers#4033",
    area="contents",
    field="text",
    test="gradient_flow[finite]",
    setup=partial(Model, PAIR),
    buggy=partial(Similarity, True),
    sound=Similarity,
    wrong=gradient_of_equal_texts,
)


class Reader(nn.Module):
    """A decoder of one layer; the bug makes its mask from the tokens in place of the one it is given."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.words, self.places = nn.Embedding(VOCAB, WIDTH), nn.Embedding(12, WIDTH)
        self.three, self.head = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, VOCAB)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        time = input_ids.shape[1]
        mask = (input_ids != 0) if self.wrong else attention_mask.bool()
        hidden = self.words(input_ids) + self.places.weight[:time]
        seen = mask[:, None, :] & torch.ones(time, time, dtype=torch.bool, device=mask.device).tril()
        seen = seen | torch.eye(time, dtype=torch.bool, device=mask.device)
        return self.head(hidden + F.scaled_dot_product_attention(*self.three(hidden).chunk(3, -1), attn_mask=seen))


def change_by_a_real_zero(model: nn.Module) -> float:
    """How far a text with a real token of id 0 is from the same text read by its own mask, at the last place."""
    ids = torch.tensor([[3, 0, 5, 7, 2]])
    with torch.no_grad():
        read = model(ids, torch.ones_like(ids))[:, -1]
        moved = model.words.weight[0].clone()
        model.words.weight[0] += 3 * torch.linspace(-1, 1, WIDTH)
        again = model(ids, torch.ones_like(ids))[:, -1]
        model.words.weight[0] = moved
    return float((read - again).abs().max() < 1e-6)


wild(
    "mask_inferred_from_tokens",
    title="The attention mask that is given is overwritten by one that is inferred from padding tokens",
    report="TransformerLensOrg/TransformerLens#467",
    area="contents",
    field="text",
    test="rare_contents[padding_id]",
    setup=partial(Model, TEXT),
    buggy=partial(Reader, True),
    sound=Reader,
    wrong=change_by_a_real_zero,
    status=Status.WARN,
)
