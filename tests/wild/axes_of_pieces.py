"""Reported bugs of places, numbers and rows that are taken for others: the seventh draw."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.planted_bugs.setups import Model

from .register import FirstRun, pair_of_one_class, task_of

WIDTH, CLASSES, NODES, FIELDS = 16, 4, 6, 8
VIEWS = task_of(
    inputs={"image": {"axes": ["batch", 3, "height", "width"]}},
    outputs={"scores": {"axes": ["batch", CLASSES], "kind": "class_scores"}},
    axes={"height": {"min": 8, "max": 24, "multiple_of": 4}, "width": {"min": 8, "max": 24, "multiple_of": 4}},
)
SERIES = task_of(inputs={"history": {"axes": ["batch", 12]}}, outputs={"next": {"axes": ["batch", 3], "kind": "values"}})
NOISY = task_of(
    inputs={"noisy": {"axes": ["batch", 6]}, "time": {"axes": ["batch"], "values": {"range": [0.0, 1.0]}}},
    outputs={"noise": {"axes": ["batch", 6], "kind": "values"}},
)
SPOTS = task_of(
    inputs={"spots": {"axes": ["batch", NODES, 5]}, "near": {"axes": ["batch", NODES, NODES], "values": {"one_of": [0, 1]}}},
    outputs={"genes": {"axes": ["batch", NODES, 3], "kind": "values"}},
)
FACES = task_of(
    inputs={"image": {"axes": ["batch", 3, 8, 8]}}, outputs={"latents": {"axes": ["batch", FIELDS], "kind": "values"}}
)
GRAPHS = task_of(
    inputs={"nodes": {"axes": ["batch", NODES, WIDTH]}},
    outputs={"scores": {"axes": ["batch", CLASSES], "kind": "class_scores"}},
)


class Views(nn.Module):
    """Patches with positions that are sampled from a table; the bug takes height for width, which shows where they differ."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.patches, self.table = nn.Conv2d(3, WIDTH, 4, stride=4), nn.Parameter(torch.randn(1, WIDTH, 4, 4))
        self.mix, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)

    def places(self, height: int, width: int) -> Tensor:
        down, across = (torch.linspace(-1, 1, each, device=self.table.device, dtype=self.table.dtype) for each in (height, width))
        if self.wrong:
            points = torch.stack(torch.meshgrid(down, across, indexing="xy"), -1)
        else:
            points = torch.stack(torch.meshgrid(down, across, indexing="ij")[::-1], -1)
        return F.grid_sample(self.table, points[None], align_corners=True).flatten(2).transpose(1, 2)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image)
        height, width = x.shape[2:]
        return self.head(self.mix(x.flatten(2).transpose(1, 2) + self.places(height, width)).relu().mean(1))


@torch.no_grad()
def places_of_a_wide_image(model: Any) -> float:
    """How far the positions of a wide image are from the table's own, which it spans."""
    found = model.places(4, 7).unflatten(1, (4, 7))[0, :, ::2]
    return float((found - model.table[0].permute(1, 2, 0)).abs().max())


class Scaled(nn.Module):
    """A forecast of a series that is normalised; the bug guards the deviation by a number that small series do not reach."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.net = wrong, nn.Sequential(nn.Linear(12, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 3))

    def forward(self, history: Tensor) -> Tensor:
        mean, variance = history.mean(1, keepdim=True), history.var(1, keepdim=True)
        deviation = (variance + 1e-5 if self.wrong else torch.where(variance > 1e-12, variance, torch.ones_like(variance))).sqrt()
        return self.net((history - mean) / deviation) * deviation + mean


@torch.no_grad()
def change_by_units(model: nn.Module) -> float:
    """How far the forecast of a series in other units is from the forecast in those."""
    history = torch.randn(4, 12)
    return float((model(history * 1e-4) * 1e4 - model(history)).abs().max())


class Timed(nn.Module):
    """A denoiser at a time between 0 and 1; the bug makes whole numbers of times."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.enter, self.leave = wrong, nn.Linear(8, WIDTH), nn.Linear(WIDTH, 6)

    def forward(self, noisy: Tensor, time: Tensor) -> Tensor:
        if self.wrong:
            time = time.long().to(noisy)
        wave = torch.stack([(3 * time).sin(), (3 * time).cos()], 1)
        return self.leave(self.enter(torch.cat([noisy, wave], 1)).tanh())


@torch.no_grad()
def same_at_all_times(model: nn.Module) -> float:
    """Whether the noise is the same at two times."""
    noisy = torch.randn(3, 6)
    return float(torch.equal(model(noisy, torch.full((3,), 0.2)), model(noisy, torch.full((3,), 0.8))))


class Spots(nn.Module):
    """Means over the neighbours of a spot; the bug divides by their number, which may be none."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.enter, self.leave = wrong, nn.Linear(5, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, spots: Tensor, near: Tensor) -> Tensor:
        near = near.to(spots)
        count = near.sum(-1, keepdim=True)
        if not self.wrong:
            count = count.clamp(min=1)
        x = self.enter(spots)
        return self.leave((x + (near @ x) / count).tanh())


@torch.no_grad()
def undefined_alone(model: nn.Module) -> float:
    """The share of the answers at spots without neighbours that are no numbers."""
    return float(model(torch.randn(2, NODES, 5), torch.zeros(2, NODES, NODES)).isnan().float().mean())


class Latents(nn.Module):
    """Latents of a face; the bug drops every axis of length 1."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.conv = wrong, nn.Conv2d(3, FIELDS, 8)

    def forward(self, image: Tensor) -> Tensor:
        found = self.conv(image)
        return found.squeeze() if self.wrong else found.flatten(1)


@torch.no_grad()
def axes_lost(model: nn.Module) -> float:
    """How many axes one image alone has lost."""
    return 2.0 - model(torch.randn(1, 3, 8, 8)).ndim


class Joined(nn.Module):
    """Scores of graphs that are put into one; the bug makes the one of the first of them, and writes into it."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.net, self.head = wrong, nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, nodes: Tensor) -> Tensor:
        joined = nodes[0]
        scaled = joined / joined.norm().clamp(min=1e-6)
        joined = joined.copy_(scaled) if self.wrong else scaled
        rest = [each / each.norm().clamp(min=1e-6) for each in nodes[1:]]
        whole = torch.stack([joined, *rest])
        return self.head(self.net(whole).relu().mean(1))


@torch.no_grad()
def written_into(model: nn.Module) -> float:
    """How far the first graph is changed."""
    nodes = torch.randn(3, NODES, WIDTH)
    before = nodes.clone()
    model(nodes)
    return float((nodes - before).abs().max())


add = partial(pair_of_one_class, judge=Model, draw=7, long=True)
add(
    "height_for_width_of_positions",
    "Positions of a wide image are sampled with height and width exchanged, which no square image shows",
    "pytorch/torchtitan#4244",
    "vision",
    "reshaped_axes",
    Views,
    places_of_a_wide_image,
    VIEWS,
    area="axes",
    line='indexing="xy"',
    first_run=FirstRun("67ba39c0", found=False, named=False, said="nothing: no test knows where the patches of an image lie"),
    missed="where the patches of an image lie is not promised",
)
add(
    "deviation_below_its_guard",
    "The number that guards a deviation decides it where the series is in small units",
    "unit8co/darts#2739",
    "forecasting",
    "rare_contents[flat_rows]",
    Scaled,
    change_by_units,
    SERIES,
    area="contents",
    first_run=FirstRun(
        "67ba39c0",
        found=False,
        named=False,
        said="nothing: no test gives a series in other units",
        alarms=("rare_contents[flat_rows]",),
    ),
    missed="a signature does not say that a forecast has the units of its series",
)
add(
    "times_made_whole_numbers",
    "Times between 0 and 1 are made whole numbers, so that all are 0",
    "huggingface/diffusers#13669",
    "diffusion",
    "input_dependence[inputs]",
    Timed,
    same_at_all_times,
    NOISY,
    area="contents",
    or_tests=("gradient_flow[reaches_every_parameter]",),
    first_run=FirstRun("67ba39c0", found=False, named=False, said="nothing: input_dependence[inputs] changes times to 1 as well"),
)
add(
    "spots_without_neighbours",
    "The mean over neighbours is divided by their number, which is 0 for a spot alone",
    "biomed-AI/Hist2ST#7",
    "graphs",
    "finite_output[extremes]",
    Spots,
    undefined_alone,
    SPOTS,
    or_tests=("finite_output[typical]", "gradient_flow[finite]"),
    area="contents",
    line="/ count",
    first_run=FirstRun("67ba39c0", found=True, named=True, said="finite_output[typical] fails, with the line of the division"),
)
add(
    "batch_of_one_squeezed",
    "Every axis of length 1 is dropped, so that one image alone has no axis of the batch",
    "omertov/encoder4editing#100",
    "vision",
    "shape_contract",
    Latents,
    axes_lost,
    FACES,
    or_tests=("declared_outputs",),
    area="axes",
    line=".squeeze()",
    first_run=FirstRun("67ba39c0", found=True, named=True, said="shape_contract fails, with the line of squeeze"),
)
add(
    "batch_bound_to_its_first_graph",
    "What holds all graphs of a batch is the first of them, which is written into",
    "graph4ai/graph4nlp#128",
    "graphs",
    "inputs_unchanged",
    Joined,
    written_into,
    GRAPHS,
    area="state",
    line="joined.copy_(",
    first_run=FirstRun(
        "67ba39c0",
        found=True,
        named=True,
        said="inputs_unchanged fails, with the line; the twin wrote into what its backward pass needed",
        alarms=("batch_independence[gradient]",),
    ),
)
