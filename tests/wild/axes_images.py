"""Reported bugs of images: odd sizes, sizes below a window, and heights that are not widths."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.tasks import TaskSpec
from tests.planted_bugs.setups import Factory, Model
from tests.planted_bugs.tier4.exports import Exported, of

from .register import task_of, wild


def images(least: int = 4, most: int = 20, step: int = 1, **output: object) -> TaskSpec:
    """A task on images of free heights and widths; by default with an output for every pixel."""
    free = {"min": least, "max": most, "multiple_of": step}
    return task_of(
        inputs={"image": {"axes": ["batch", 3, "height", "width"]}},
        outputs={"out": output or {"axes": ["batch", 2, "height", "width"], "kind": "values"}},
        axes={"height": free, "width": free},
    )


SCORES = {"axes": ["batch", 4], "kind": "class_scores"}


def refused(model: nn.Module, sizes: Sequence[tuple[int, int]] = ((9, 12), (12, 7), (4, 4), (13, 20))) -> float:
    """How many image sizes a model refuses, or answers with another size where it has an output for every pixel."""
    count = 0
    for height, width in sizes:
        try:
            with torch.no_grad():
                out = model(torch.randn(2, 3, height, width))
        except RuntimeError:
            count += 1
            continue
        count += out.ndim == 4 and out.shape[-2:] != (height, width)
    return float(count)


_pair = partial(wild, area="axes", field="vision", test="shape_contract", wrong=refused)


class UNet(nn.Module):
    """Down, up, and a skip connection; the bug expects that up again is as large as before."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.first, self.down, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(8, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        skip = self.first(image).relu()
        deep = self.down(skip).relu()
        up = F.interpolate(deep, scale_factor=2) if self.wrong else F.interpolate(deep, size=skip.shape[-2:])
        return self.last(torch.cat([skip, up], 1))


_pair(
    "skip_connection_of_an_odd_size",
    title="A U-Net doubles what it halved, so that odd sizes do not fit their skip connection",
    report="qubvel-org/segmentation_models.pytorch#93",
    setup=partial(Model, images()),
    buggy=partial(UNet, True),
    sound=UNet,
)


class Windows(nn.Module):
    """Attention within windows; the bug does not fill the last windows up."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.window = wrong, 6
        self.enter, self.read, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 24), nn.Conv2d(8, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        x, side = self.enter(image), self.window
        real = torch.ones_like(x[:1, :1])
        if not self.wrong:
            x = F.pad(x, (0, -width % side, 0, -height % side))
            real = F.pad(real, (0, -width % side, 0, -height % side))
        x, real = self.cut(x), self.cut(real)
        query, key, value = self.read(x).chunk(3, -1)
        scores = (query @ key.transpose(-1, -2) / 8**0.5).masked_fill(real.transpose(-1, -2) == 0, -torch.inf)
        found = x + scores.softmax(-1) @ value
        rows, columns = -(-height // side), -(-width // side)
        found = found.view(len(image), rows, columns, side, side, 8).permute(0, 5, 1, 3, 2, 4)
        return self.head(found.reshape(len(image), 8, rows * side, columns * side)[..., :height, :width])

    def cut(self, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        side = self.window
        cut = x.view(count, channels, height // side, side, width // side, side).permute(0, 2, 4, 3, 5, 1)
        return cut.reshape(count, -1, side * side, channels)


_pair(
    "feature_map_below_a_window",
    title="Attention within windows fails where the feature map is smaller than a window or no multiple of it",
    report="PaddlePaddle/PaddleDetection#4726",
    setup=partial(Model, images()),
    buggy=partial(Windows, True),
    sound=Windows,
)


class Mixing(nn.Module):
    """Attention over all places beside a convolution; the bug puts the places back with the width as the height."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.conv, self.read, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 24), nn.Conv2d(8, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv(image)
        query, key, value = self.read(x.flatten(2).transpose(1, 2)).chunk(3, -1)
        mixed = ((query @ key.transpose(1, 2) / 8**0.5).softmax(-1) @ value).transpose(1, 2)
        height = x.shape[-1] if self.wrong else x.shape[-2]
        return self.head(x + mixed.reshape(len(x), -1, height, x.shape[-1]))


_pair(
    "height_taken_from_the_width",
    title="Places are put back into a map whose height is the width of the image",
    report="LeapLabTHU/ACmix#6",
    setup=partial(Model, images()),
    buggy=partial(Mixing, True),
    sound=Mixing,
    module="(model)",
)


class VisionTransformer(nn.Module):
    """Patches with a table of positions that is resized to the patches there are; the bugs resize it by a factor, or the wrong way round."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        self.wrong = wrong
        self.patches, self.places = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(1, 8, 7, 7))
        self.read, self.head = nn.Linear(8, 24), nn.Linear(8, 4)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image)
        x = (x + self.resized(x.shape[-2], x.shape[-1])).flatten(2).transpose(1, 2)
        query, key, value = self.read(x).chunk(3, -1)
        return self.head((x + (query @ key.transpose(1, 2) / 8**0.5).softmax(-1) @ value).mean(1))

    def resized(self, height: int, width: int) -> Tensor:
        if self.wrong == "factor":
            return F.interpolate(self.places, scale_factor=(height / 7.0 - 1e-6, width / 7.0 - 1e-6), mode="bilinear")
        if self.wrong == "swapped":
            found = F.interpolate(self.places, size=(width, height), mode="bilinear", align_corners=False)
            return found.reshape(1, 8, height, width)
        return F.interpolate(self.places, size=(height, width), mode="bilinear", align_corners=False)


_pair(
    "positions_resized_by_a_factor",
    title="Positions are resized by a factor, which rounds to another number of patches at some sizes",
    report="facebookresearch/dinov2#378",
    setup=partial(Model, images(8, 48, 4, **SCORES)),
    buggy=partial(VisionTransformer, "factor"),
    sound=VisionTransformer,
    wrong=partial(refused, sizes=((8, 12), (44, 20), (48, 48))),
)


def change_of_places(model: nn.Module) -> float:
    """How far the positions of a wide image are from the table resized to its patches."""
    resized = F.interpolate(model.places, size=(2, 5), mode="bilinear", align_corners=False)  # type: ignore[arg-type]
    return float((model.resized(2, 5) - resized).detach().abs().max())  # type: ignore[operator]


_pair(
    "positions_resized_the_wrong_way_round",
    title="Height and width are given in the wrong order where positions are resized",
    report="facebookresearch/dinov2#582",
    setup=partial(Model, images(8, 24, 4, **SCORES)),
    buggy=partial(VisionTransformer, "swapped"),
    sound=VisionTransformer,
    wrong=change_of_places,
    test="reshaped_axes",
    line="found.reshape(1, 8, height, width)",
)


class FixedPositions(VisionTransformer):
    """The same; the bug makes numbers of Python of the sizes, which an export takes for constants."""

    def resized(self, height: int, width: int) -> Tensor:
        return super().resized(int(height), int(width)) if self.wrong else super().resized(height, width)


def change_of_a_trace(model: nn.Module) -> float:
    """How far a trace of a small image is from the model at another size; infinite where it refuses that."""
    other = torch.randn(2, 3, 24, 16)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, torch.randn(2, 3, 16, 16), check_trace=False)
        try:
            return float((traced(other) - model(other)).abs().max())
        except RuntimeError:
            return math.inf


def exported(build: Factory) -> Exported:
    """A model as a TorchScript file."""
    return Exported(of(build, "torchscript", task=images(8, 24, 4, **SCORES)), "torchscript")


_pair(
    "positions_of_an_export_have_one_size",
    title="Sizes become numbers of Python where positions are resized, so that the file takes the image size of its example only",
    report="huggingface/transformers#33226",
    test="dynamic_axes",
    setup=exported,
    buggy=partial(FixedPositions, "int"),
    sound=FixedPositions,
    wrong=change_of_a_trace,
)
