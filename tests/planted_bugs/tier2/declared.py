"""Models of tasks that no type names, looked into; each bug is in one input, one output or one axis of several."""

from __future__ import annotations

from functools import partial
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from harness.evidence import Status

from ..tier1.declared import Keys, task_of
from .analysed import plant
from .attribution import Activation, HalfSwish, Normalised, Swish

WIDTH = 16


def scores(*axes: int | str) -> Keys:
    return {"axes": [*axes, 4], "kind": "class_scores"}


class TwoHeads(nn.Module):
    """Scores of actions, and a value with its own activation; the bug's has a wrong backward."""

    def __init__(self, function: type[torch.autograd.Function] = Swish) -> None:
        super().__init__()
        self.body, self.actions = nn.Linear(8, WIDTH), nn.Linear(WIDTH, 4)
        self.value = nn.Sequential(nn.Linear(WIDTH, WIDTH), Activation(function), nn.Linear(WIDTH, 1))

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(observation).tanh()
        return self.actions(hidden), self.value(hidden).squeeze(-1)


class Prices(nn.Module):
    """A query, and a price in cents; the bug gives it to tanh as it is."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.unit = 1.0 if wrong else 50_000.0
        self.query, self.price, self.head = nn.Linear(6, WIDTH), nn.Linear(1, WIDTH), nn.Linear(2 * WIDTH, 1)

    def forward(self, query: Tensor, price: Tensor) -> Tensor:
        priced = self.price(price[:, None] / self.unit - 1).tanh()
        return self.head(torch.cat((self.query(query).tanh(), priced), 1)).squeeze(1)


class NodeAttention(nn.Module):
    """Nodes attend to each other; the bug forgets which are there."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.each, self.qkv, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 4)

    def forward(self, nodes: Tensor, is_real: Tensor) -> Tensor:
        x = self.each(nodes)
        query, key, value = self.qkv(x).chunk(3, -1)
        weights = query @ key.transpose(1, 2) / sqrt(WIDTH)
        if not self.wrong:
            weights = weights.masked_fill(~is_real[:, None, :], torch.finfo(weights.dtype).min)
        x = (x + weights.softmax(-1) @ value) * is_real[..., None]
        return self.head(x.sum(1) / is_real.sum(1, keepdim=True).clamp(min=1))


class Forecast(nn.Module):
    """Each step attends to what was before; the bug's mask is turned round."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.into, self.qkv, self.head = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, series: Tensor) -> Tensor:
        x = self.into(series)
        query, key, value = self.qkv(x).chunk(3, -1)
        weights = query @ key.transpose(1, 2) / sqrt(WIDTH)
        later = torch.ones(weights.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
        weights = weights.masked_fill(later.T if self.wrong else later, torch.finfo(weights.dtype).min)
        return self.head(x + weights.softmax(-1) @ value)


class Detector(nn.Module):
    """Scores, and an area; the bug sums the squares of pixels before it divides."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.body, self.scores, self.area = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4), nn.Linear(8, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        hidden = self.body(image)
        pixels = 300 * self.area(hidden.mean((2, 3)))
        area = (pixels.square().sum(1) * 10) / 1e5 if self.wrong else (pixels / 100).square().sum(1)
        return {"scores": self.scores(hidden.relu().mean((2, 3))), "area": area}


class Smoothed(nn.Module):
    """Messages along the edges; the bug's reach every node alike."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.own, self.heard = nn.Linear(5, 4), nn.Linear(5, 4)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        source, target = edge_index
        if self.wrong:
            return (self.own(x) + self.heard(x)).mean(0, keepdim=True).expand(len(x), -1)
        return self.own(x).index_add(0, target, self.heard(x)[source])


class Loans(nn.Module):
    """Categories and amounts; the bug reads the amounts in cents."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.factor = torch.tensor([1.0, 1e5 if wrong else 1.0])
        self.tables = nn.ModuleList(nn.Embedding(count, 4) for count in (9, 7))
        self.amounts, self.head = nn.Linear(2, 8), nn.Linear(16, 1)

    def forward(self, kinds: Tensor, amounts: Tensor) -> Tensor:
        read = [table(kinds[:, place]) for place, table in enumerate(self.tables)]
        return self.head(torch.cat((*read, self.amounts(amounts * self.factor.to(amounts))), 1)).squeeze(1)


class Centred(nn.Module):
    """A class and an embedding of one input; the bug stops the gradient where the embedding's is normalised."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.classes = nn.Linear(6, 4)
        self.embed = nn.Sequential(Normalised(cut=wrong), nn.Linear(6, WIDTH), nn.Tanh())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.classes(x), self.embed(x)


class Waves(nn.Module):
    """Points as sines of their coordinates; the bug has far too many octaves."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.frequencies = 2.0 ** torch.arange(20 if wrong else 4)
        self.head = nn.Linear(2 * 3 * len(self.frequencies), 4)

    def forward(self, points: Tensor) -> dict[str, Any]:
        angles = (points[..., None] * self.frequencies.to(points)).flatten(-2)
        seen = torch.cat((angles.sin(), angles.cos()), -1)
        colour = self.head(seen)
        return {"density": points.square().sum(-1).neg().exp(), "colour": colour}


POLICY = {
    "inputs": {"observation": {"axes": ["batch", 8]}},
    "outputs": {"actions": scores("batch"), "value": {"axes": ["batch"]}},
}
PRICES = {
    "inputs": {"query": {"axes": ["batch", 6]}, "price": {"axes": ["batch"], "values": {"range": [1_000.0, 100_000.0]}}},
    "outputs": {"click": {"axes": ["batch"], "kind": "binary_scores"}},
}
NODES = {
    "inputs": {
        "nodes": {"axes": ["batch", "count", 5]},
        "is_real": {"axes": ["batch", "count"], "values": {"mask_of": "count"}, "dtype": "bool"},
    },
    "outputs": {"scores": scores("batch")},
    "axes": {"count": {"min": 2, "max": 12, "order": "none", "padding": "anywhere"}},
}
SERIES = {
    "inputs": {"series": {"axes": ["batch", "time", 3]}},
    "outputs": {"next": {"axes": ["batch", "time", 3]}},
    "axes": {"time": {"min": 2, "max": 24, "order": "causal"}},
}
IMAGE = {
    "inputs": {"image": {"axes": ["batch", 3, "height", "width"]}},
    "outputs": {"scores": scores("batch"), "area": {"axes": ["batch"]}},
    "axes": {"height": {"min": 3, "max": 9}, "width": {"min": 3, "max": 9}},
}
GRAPH = {
    "inputs": {"x": {"axes": ["nodes", 5]}, "edge_index": {"axes": [2, "edges"], "values": {"index_of": "nodes"}}},
    "outputs": {"scores": scores("nodes")},
    "axes": {"nodes": {"min": 3, "max": 20, "order": "none"}, "edges": {"min": 2, "max": 30}},
}
LOANS = {
    "inputs": {"kinds": {"axes": ["batch", 2], "values": {"ids": [9, 7]}}, "amounts": {"axes": ["batch", 2]}},
    "outputs": {"default": {"axes": ["batch"], "kind": "binary_scores"}},
}
EMBEDDED = {
    "inputs": {"x": {"axes": ["batch", 6]}},
    "outputs": {"classes": scores("batch"), "vector": {"axes": ["batch", WIDTH], "kind": "embedding"}},
}
FIELD = {
    "inputs": {"points": {"axes": ["batch", "count", 3]}},
    "outputs": {"density": {"axes": ["batch", "count"]}, "colour": {"axes": ["batch", "count", 4]}},
    "axes": {"count": {"min": 2, "max": 12, "order": "none"}},
}

plant(
    "wrong gradient in the second head",
    task_of(POLICY),
    partial(TwoHeads, HalfSwish),
    TwoHeads,
    "gradcheck",
    "wrong_gradient",
    "value.1",
    says="output `value`: the gradient of",
)
plant(
    "one input saturates",
    task_of(PRICES),
    partial(Prices, wrong=True),
    Prices,
    "dead_units[saturated]",
    "all_units_flat",
    "price",
    says="all 16 units are saturated",
)
plant(
    "padded nodes attended to",
    task_of(NODES),
    partial(NodeAttention, wrong=True),
    NodeAttention,
    "attention_patterns[padding]",
    "reads_padding",
    "(model)",
    says="the only head attends to padding",
)
plant(
    "causal mask turned round",
    task_of(SERIES),
    partial(Forecast, wrong=True),
    Forecast,
    "attention_patterns[causal]",
    "reads_later_positions",
    "(model)",
    says="attends to a later position",
)
plant(
    "second output overflows",
    task_of(IMAGE),
    partial(Detector, wrong=True),
    Detector,
    "half_precision[float16]",
    "not_finite",
    "(model)",
    says="output `area`: in float16 the logits of typical input are not finite",
)
plant(
    "nodes smoothed to one",
    task_of(GRAPH),
    partial(Smoothed, wrong=True),
    Smoothed,
    "representation_rank",
    "examples_alike",
    "(model)",
)
plant(
    "one amount decides",
    task_of(LOANS),
    partial(Loans, wrong=True),
    Loans,
    "robustness[masking]",
    "hangs_on_one_part",
    status=Status.WARN,
    says="the output hangs on feature 1",
)
plant(
    "second output's gradient cut",
    task_of(EMBEDDED),
    partial(Centred, wrong=True),
    Centred,
    "attribution",
    "gradient_misses_change",
    "embed.0",
    status=Status.WARN,
    says="the gradients at the input do not add up",
)
plant(
    "second output drowns in noise",
    task_of(FIELD),
    partial(Waves, wrong=True),
    Waves,
    "robustness[noise]",
    "drowned_by_noise",
    "(model)",
    status=Status.WARN,
    says="output `colour`: noise below 8-bit resolution",
)
