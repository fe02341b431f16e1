"""Models that view an axis in the place of another, and twins that move it: heads, channels, patches, points and pieces of a film."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.evidence import Status

from .declared import Keys, plant_declared

WIDTH, HEADS = 12, 2


class Tagger(nn.Module):
    """Attention of words to each other; the bugs view heads apart, or together, without moving their axis."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        self.wrong = wrong
        self.words, self.enter, self.head = nn.Embedding(19, WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 4)

    def forward(self, words: Tensor) -> Tensor:
        x = self.words(words)
        batch, time, _ = x.shape
        query, key, value = (self.apart(part) for part in self.enter(x).chunk(3, -1))
        seen = F.scaled_dot_product_attention(query, key, value)
        if self.wrong == "together":
            return self.head(x + seen.reshape(batch, time, WIDTH))
        return self.head(x + seen.transpose(1, 2).reshape(batch, time, WIDTH))

    def apart(self, x: Tensor) -> Tensor:
        if self.wrong == "apart":
            return x.reshape(len(x), HEADS, -1, WIDTH // HEADS)
        return x.view(*x.shape[:2], HEADS, -1).transpose(1, 2)


class Sound(nn.Module):
    """A convolution over frames that come one after the other; the bug views channels before frames."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.conv, self.head = nn.Conv1d(6, 8, 3, padding=1), nn.Linear(8, 3)

    def forward(self, frames: Tensor) -> Tensor:
        batch, time, bands = frames.shape
        x = frames.reshape(batch, bands, time) if self.wrong else frames.transpose(1, 2)
        return self.head(self.conv(x).relu().mean(2))


class Patches(nn.Module):
    """A classifier of patches of an image; the bug views patches of an image whose channels come first as if they came last."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.enter, self.head = nn.Linear(48, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, image: Tensor) -> Tensor:
        batch, channels, height, width = image.shape
        if self.wrong:
            x = image.reshape(batch, height // 4, 4, width // 4, 4, channels).permute(0, 1, 3, 2, 4, 5)
        else:
            x = image.view(batch, channels, height // 4, 4, width // 4, 4).permute(0, 2, 4, 3, 5, 1)
        return self.head(self.enter(x.flatten(3).flatten(1, 2)).relu().mean(1))


class Cloud(nn.Module):
    """Features of a cloud's points by convolutions of size one; the bug gives them back as if points came first."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.points, self.head = nn.Sequential(nn.Conv1d(3, 8, 1), nn.ReLU(), nn.Conv1d(8, 8, 1)), nn.Linear(8, 3)

    def forward(self, points: Tensor) -> Tensor:
        x = self.points(points.transpose(1, 2))
        x = x.reshape(len(points), -1, 8) if self.wrong else x.transpose(1, 2)
        return self.head(x.tanh().mean(1))


class Film(nn.Module):
    """Smooths a film place by place; all places and frames are one axis in between, and the bug takes it apart in another order."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.enter, self.over_time, self.leave = nn.Linear(4, 8), nn.Conv1d(8, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, film: Tensor) -> Tensor:
        batch, frames, places, _ = film.shape
        x = self.enter(film.flatten(1, 2)).relu()
        x = x.view(batch, places, frames, 8).transpose(1, 2) if self.wrong else x.view(batch, frames, places, 8)
        mixed = self.over_time(x.permute(0, 2, 3, 1).flatten(0, 1)).view(batch, places, 8, frames)
        return film + self.leave(mixed.permute(0, 3, 1, 2))


class Wave(nn.Module):
    """Channels of a signal in groups of a few samples; the bug cuts groups that hold the end of a channel and the beginning of the next."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.size = 15 if wrong else 5
        self.enter, self.head = nn.Linear(self.size, 8), nn.Linear(8, 3)

    def forward(self, wave: Tensor) -> Tensor:
        return self.head(self.enter(wave.reshape(len(wave), -1, self.size)).relu().mean(1))


class Positioned(nn.Module):
    """Patches with a table of positions that is resized to them; the bugs resize it to width and height, and see that as height and width."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        self.wrong = wrong
        self.enter, self.places = nn.Conv2d(3, WIDTH, 4, 4), nn.Parameter(torch.randn(1, WIDTH, 3, 3))
        self.read, self.head = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, image: Tensor) -> Tensor:
        x = self.enter(image)
        height, width = x.shape[2:]
        size = (width, height) if self.wrong else (height, width)
        places = F.interpolate(self.places, size=size, mode="bilinear")
        if self.wrong == "viewed":
            places = places.reshape(1, WIDTH, height, width)
        x = x.flatten(2).transpose(1, 2) + places.flatten(2).transpose(1, 2)
        query, key, value = self.read(x).chunk(3, -1)
        return self.head(F.scaled_dot_product_attention(query, key, value).mean(1))


TEXT: Keys = {
    "inputs": {"words": {"axes": ["batch", "time"], "values": {"ids": 19}}},
    "outputs": {"tags": {"axes": ["batch", "time", 4], "kind": "class_scores"}},
    "axes": {"time": {"min": 1, "max": 12}},
}
FRAMES: Keys = {
    "inputs": {"frames": {"axes": ["batch", "time", 6]}},
    "outputs": {"scores": {"axes": ["batch", 3], "kind": "class_scores"}},
    "axes": {"time": {"min": 3, "max": 12}},
}
IMAGE: Keys = {
    "inputs": {"image": {"axes": ["batch", 3, "height", "width"]}},
    "outputs": {"scores": {"axes": ["batch", 3], "kind": "class_scores"}},
    "axes": {"height": {"min": 4, "max": 40, "multiple_of": 4}, "width": {"min": 4, "max": 40, "multiple_of": 4}},
}
POINTS: Keys = {
    "inputs": {"points": {"axes": ["batch", "points", 3]}},
    "outputs": {"scores": {"axes": ["batch", 3], "kind": "class_scores"}},
    "axes": {"points": {"min": 2, "max": 12}},
}
MOVING: Keys = {
    "inputs": {"film": {"axes": ["batch", "frames", "places", 4]}},
    "outputs": {"smooth": {"axes": ["batch", "frames", "places", 4], "kind": "values"}},
    "axes": {"frames": {"min": 2, "max": 12}, "places": {"min": 2, "max": 12}},
}
SIGNAL: Keys = {
    "inputs": {"wave": {"axes": ["batch", 6, 20]}},
    "outputs": {"scores": {"axes": ["batch", 3], "kind": "class_scores"}},
}

for _name, _model, _keys, _wrong, _facts in (
    ("heads_viewed_apart", Tagger, TEXT, "apart", {"source": "reczoo/FuxiCTR#30"}),
    ("heads_viewed_together", Tagger, TEXT, "together", {}),
    ("channels_viewed_before_frames", Sound, FRAMES, True, {}),
    ("patches_of_channels_that_come_first", Patches, IMAGE, True, {}),
    ("points_viewed_before_features", Cloud, POINTS, True, {}),
    ("positions_of_width_and_height", Positioned, IMAGE, "viewed", {"source": "facebookresearch/dinov2#582"}),
    ("pieces_viewed_in_another_order", Film, MOVING, True, {"source": "huggingface/diffusers#5633"}),
):
    plant_declared(_name, _model, _keys, "reshaped_axes", wrong=_wrong, module="(model)", code="reshape_moves_axis", **_facts)
plant_declared(
    "pieces_that_cross_channels",
    Wave,
    SIGNAL,
    "reshaped_axes",
    module="(model)",
    code="reshape_cuts_axes",
    status=Status.WARN,
)
plant_declared(
    "positions_flattened_in_another_order",
    Positioned,
    IMAGE,
    "reshaped_axes",
    wrong="flattened",
    module="(model)",
    code="axes_in_other_order",
    source="facebookresearch/dinov2#582",
)
