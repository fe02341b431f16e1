"""Reported bugs of shapes: rows that share a regression, masks and heads that are viewed in another order, pieces of a sound or a film."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tests.planted_bugs.setups import Model

from .register import FirstRun, pair_of_one_class, task_of

WIDTH, HEADS, PAST, NEXT, FIELDS, PIECES, FRAMES, BANDS = 12, 2, 10, 4, 5, 3, 4, 6
SALES = task_of(
    inputs={"history": {"axes": ["batch", PAST]}, "prices": {"axes": ["batch", PAST + NEXT]}},
    outputs={"forecast": {"axes": ["batch", NEXT], "kind": "values"}},
)
GRAPHS = task_of(
    inputs={
        "nodes": {"axes": ["batch", "nodes", 5]},
        "real": {"axes": ["batch", "nodes"], "values": {"mask_of": "nodes"}},
    },
    outputs={"classes": {"axes": ["batch", "nodes", 3], "kind": "class_scores"}},
    axes={"nodes": {"min": 2, "max": 7, "padding": "right", "order": "none"}},
)
CLICKS = task_of(
    inputs={"fields": {"axes": ["batch", FIELDS], "values": {"ids": [9, 6, 5, 7, 4]}}},
    outputs={"click": {"axes": ["batch"], "kind": "binary_scores"}},
)
BODIES = task_of(
    inputs={"form": {"axes": ["batch", 4]}, "pose": {"axes": ["batch", 3]}},
    outputs={"points": {"axes": ["batch", 8, 3], "kind": "values"}},
)
SOUNDS = task_of(
    inputs={"sound": {"axes": ["batch", BANDS, PIECES, FRAMES]}},
    outputs={"clean": {"axes": ["batch", BANDS, PIECES, FRAMES], "kind": "values"}},
)
FILMS = task_of(
    inputs={"film": {"axes": ["batch", "frames", BANDS, 2, 2]}},
    outputs={"noise": {"axes": ["batch", "frames", BANDS, 2, 2], "kind": "values"}},
    axes={"frames": {"min": 2, "max": 6}},
)


class Regression(nn.Module):
    """A line through what was sold at which price, for each row; the bug draws one through the rows of the whole batch."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong

    def forward(self, history: Tensor, prices: Tensor) -> Tensor:
        known, axes = prices[:, :PAST], (0, 1) if self.wrong else (1,)
        middle, level = known.mean(axes, keepdim=True), history.mean(axes, keepdim=True)
        together = ((known - middle) * (history - level)).sum(axes, keepdim=True)
        slope = together / ((known - middle).square().sum(axes, keepdim=True) + 0.1)
        return level + slope * (prices - middle)


class Sales(nn.Module):
    """A forecast of what the prices leave open, added to what they say."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.regress, self.net = Regression(wrong), nn.Linear(PAST, NEXT)

    def forward(self, history: Tensor, prices: Tensor) -> Tensor:
        told = self.regress(history, prices)
        return told[:, PAST:] + self.net(history - told[:, :PAST])


def change_by_other_rows(model: Any) -> float:
    """How far the forecast of a row moves where another one is beside it."""
    history, prices = torch.randn(2, PAST), torch.randn(2, PAST + NEXT)
    with torch.no_grad():
        return float((model(history, prices)[:1] - model(history[:1], prices[:1])).abs().max())


class NodeAttention(nn.Module):
    """Attention of nodes to each other, all heads in one batch; the bug leaves it to broadcasting to give each head its mask."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.enter, self.leave = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        batch, count, _ = x.shape
        query, key, value = (part.unflatten(2, (HEADS, -1)).transpose(1, 2).flatten(0, 1) for part in self.enter(x).chunk(3, 2))
        seen = real[:, None, :].expand(-1, count, -1)
        if not self.wrong:
            seen = seen.repeat_interleave(HEADS, 0)
        weights = (query @ key.transpose(1, 2)).masked_fill(~seen, -1e4).softmax(2)
        return self.leave((weights @ value).unflatten(0, (batch, HEADS)).transpose(1, 2).flatten(2))


class GraphTransformer(nn.Module):
    """Classes of nodes."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.enter, self.attention, self.leave = nn.Linear(5, WIDTH), NodeAttention(wrong), nn.Linear(WIDTH, 3)

    def forward(self, nodes: Tensor, real: Tensor) -> Tensor:
        x = self.enter(nodes)
        return self.leave((x + self.attention(x, real.bool())).tanh())


def fails_with_three_graphs(model: Any) -> float:
    """Whether a batch of three graphs is refused."""
    try:
        model(torch.randn(3, 4, 5), torch.ones(3, 4, dtype=torch.long))
    except RuntimeError:
        return 1.0
    return 0.0


class FieldAttention(nn.Module):
    """Attention of the fields of a click to each other; the bug views the heads apart without moving their axis."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.embed = nn.ModuleList(nn.Embedding(size, WIDTH) for size in (9, 6, 5, 7, 4))
        self.enter, self.head = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(FIELDS * WIDTH, 1)

    def heads(self, x: Tensor) -> Tensor:
        if self.wrong:
            return x.reshape(len(x) * HEADS, -1, WIDTH // HEADS)
        return x.unflatten(2, (HEADS, -1)).transpose(1, 2).flatten(0, 1)

    def forward(self, fields: Tensor) -> Tensor:
        x = torch.stack([embed(fields[:, column]) for column, embed in enumerate(self.embed)], 1)
        query, key, value = (self.heads(part) for part in self.enter(x).chunk(3, 2))
        seen = (query @ key.transpose(1, 2) / 2.0).softmax(2) @ value
        return self.head((x + seen.reshape(len(x), HEADS, FIELDS, -1).transpose(1, 2).flatten(2)).flatten(1))[:, 0]


def apart_from_heads(model: Any) -> float:
    """How far the heads are from every field's own part of what it holds."""
    x = torch.randn(2, FIELDS, WIDTH)
    parts = torch.stack([x[..., : WIDTH // HEADS], x[..., WIDTH // HEADS :]], 1).flatten(0, 1)
    return float((model.heads(x) - parts).abs().max())


class Body(nn.Module):
    """The points of a body by its form and pose; the bug squeezes every axis of one, the rows too."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.mean, self.forms = nn.Parameter(torch.randn(8, 3)), nn.Parameter(torch.randn(8, 3, 4))
        self.turn = nn.Linear(3, 9)

    def forward(self, form: Tensor, pose: Tensor) -> Tensor:
        moved = (self.forms @ form[:, None, :, None]).squeeze(3)
        turned = (self.turn(pose).view(-1, 1, 3, 3) @ (self.mean + moved)[..., None]).squeeze(3)
        return turned.squeeze() if self.wrong else turned


def shape_of_one(model: Any) -> float:
    """How many axes are missing for a single body."""
    return float(3 - model(torch.randn(1, 4), torch.randn(1, 3)).dim())


class Cleaner(nn.Module):
    """Cleans each piece of a sound frame by frame; the bug takes its axes in another order than the reshape is written for."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.local, self.out = nn.GRU(BANDS, BANDS, batch_first=True, bidirectional=True), nn.Linear(2 * BANDS, BANDS)

    def pieces(self, sound: Tensor) -> Tensor:
        return sound.permute(0, 2, 1, 3) if self.wrong else sound.permute(0, 2, 3, 1)

    def forward(self, sound: Tensor) -> Tensor:
        x = self.pieces(sound).reshape(-1, FRAMES, BANDS)
        return sound + self.out(self.local(x)[0]).view(len(sound), PIECES, FRAMES, BANDS).permute(0, 3, 1, 2)


def apart_from_frames(model: Any) -> float:
    """How far the frames of a piece are from those of the sound."""
    sound = torch.randn(2, BANDS, PIECES, FRAMES)
    frames = torch.stack([sound[0, :, 0, frame] for frame in range(FRAMES)])
    return float((model.pieces(sound).reshape(-1, FRAMES, BANDS)[0] - frames).abs().max())


class OverTime(nn.Module):
    """Mixes the frames of a film place by place; the bug puts them back with frames and channels in each other's place."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.enter, self.leave = nn.Linear(BANDS, 3 * BANDS), nn.Linear(BANDS, BANDS)

    def back(self, x: Tensor, film: Tensor) -> Tensor:
        batch, frames, bands, height, width = film.shape
        if self.wrong:
            return x.reshape(batch, height, width, bands, frames).permute(0, 4, 3, 1, 2)
        return x.reshape(batch, height, width, frames, bands).permute(0, 3, 4, 1, 2)

    def forward(self, film: Tensor) -> Tensor:
        x = film.permute(0, 3, 4, 1, 2).flatten(0, 2)
        query, key, value = self.enter(x).chunk(3, 2)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return film + self.back(self.leave(mixed), film)


def apart_from_the_film(model: Any) -> float:
    """How far a film is from itself that is taken apart and put together."""
    film = torch.randn(2, 3, BANDS, 2, 2)
    return float((model.back(film.permute(0, 3, 4, 1, 2).flatten(0, 2), film) - film).abs().max())


add = partial(pair_of_one_class, area="axes", judge=Model, draw=4, long=True)
add(
    "regression_over_the_batch",
    "What prices do is fitted to all rows of the batch together, so that a forecast depends on the other rows",
    "google-research/timesfm#393",
    "forecasting",
    "batch_independence[forward]",
    Sales,
    change_by_other_rows,
    SALES,
    or_tests=("batch_independence[gradient]",),
    module="regress",
    first_run=FirstRun("79f3b8c", found=True, named=True, said="batch_independence[forward] fails in regress, with its line"),
)
add(
    "mask_broadcast_to_heads",
    "A mask for each graph is broadcast where one for each head of each graph is needed, so that it fits a single graph only",
    "lucidrains/graph-transformer-pytorch#2",
    "graphs",
    "shape_contract",
    GraphTransformer,
    fails_with_three_graphs,
    GRAPHS,
    or_tests=("batch_independence[forward]",),
    module="attention",
    first_run=FirstRun(
        "79f3b8c",
        found=True,
        named=True,
        said="shape_contract fails in attention; the twin's mask value of -1e4 does not fit half precision",
        alarms=("dtype_move[float16]",),
    ),
)
add(
    "heads_viewed_apart",
    "Heads are split by a view without a transpose, so that each mixes parts of several fields",
    "reczoo/FuxiCTR#30",
    "recommenders",
    "reshaped_axes",
    FieldAttention,
    apart_from_heads,
    CLICKS,
    line="x.reshape(len(x) * HEADS, -1, WIDTH // HEADS)",
    first_run=FirstRun("79f3b8c", found=False, named=False, said="nothing: within a row every part still matters"),
)
add(
    "one_body_without_its_row",
    "squeeze() without an axis takes away the row of a batch of one",
    "CalciferZh/SMPL#12",
    "vision",
    "shape_contract",
    Body,
    shape_of_one,
    BODIES,
    or_tests=("declared_outputs",),
    module="(model)",
    first_run=FirstRun("79f3b8c", found=True, named=True, said="shape_contract fails, with the line of forward"),
)
add(
    "pieces_in_another_order",
    "The axes of a sound in pieces are permuted to another order than the reshape that follows is written for",
    "Honee-W/CPTNN#2",
    "speech",
    "reshaped_axes",
    Cleaner,
    apart_from_frames,
    SOUNDS,
    line="self.pieces(sound).reshape(-1, FRAMES, BANDS)",
    first_run=FirstRun("79f3b8c", found=False, named=False, said="nothing: within a row every part still matters"),
)
add(
    "frames_for_channels",
    "Frames and channels change places in the reshape that puts a film together again",
    "huggingface/diffusers#5633",
    "diffusion",
    "reshaped_axes",
    OverTime,
    apart_from_the_film,
    FILMS,
    line="x.reshape(batch, height, width, bands, frames)",
    first_run=FirstRun("79f3b8c", found=False, named=False, said="nothing: within a row every part still matters"),
)
