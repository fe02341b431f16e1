"""Models of images and videos from many fields, declared by their signature; each has a bug that was reported of such a model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .declared import Keys, plant_declared
from .images import IMAGE

SIZES: Keys = {"height": {"min": 6, "max": 16}, "width": {"min": 6, "max": 16}}
MASK = {"mask": {"axes": ["batch", 3, "height", "width"], "kind": "class_scores", "classes": 1}}
SEGMENTATION: Keys = {"inputs": {"image": IMAGE}, "outputs": MASK, "axes": SIZES}


def block(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU())


class Up(nn.Module):
    """Makes a map as large as the one that skips to it, and joins both; the bug pads the sides in the wrong order."""

    def __init__(self, inside: int, outside: int, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.up, self.conv = nn.ConvTranspose2d(inside, outside, 2, stride=2), block(2 * outside, outside)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.up(x)
        tall, wide = skip.size(2) - x.size(2), skip.size(3) - x.size(3)
        if self.wrong:
            tall, wide = wide, tall
        x = F.pad(x, [wide // 2, wide - wide // 2, tall // 2, tall - tall // 2])
        return self.conv(torch.cat([skip, x], dim=1))


class PaddedUNet(nn.Module):
    """A U-Net for images of any size."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.third = block(3, 4), block(4, 8), block(8, 16)
        self.up2, self.up1 = Up(16, 8, wrong), Up(8, 4, wrong)
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        first = self.first(image)
        second = self.second(F.max_pool2d(first, 2))
        third = self.third(F.max_pool2d(second, 2))
        return self.head(self.up1(self.up2(third, second), first))


plant_declared(
    "padded_by_the_other_side",
    PaddedUNet,
    SEGMENTATION,
    "shape_contract",
    module="up1",
    source="milesial/Pytorch-UNet#32",
)


class Pyramid(nn.Module):
    """A feature pyramid; the bug begins its lateral maps one stage too deep."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.stages = nn.ModuleList(nn.Conv2d(6, 6, 3, stride=2, padding=1) for _ in range(2))
        self.laterals = nn.ModuleList(nn.Conv2d(6, 6, 1) for _ in range(3))
        self.smooth, self.head = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        features = [self.stem(image).relu()]
        for stage in self.stages:
            features.append(stage(features[-1]).relu())
        maps = [lateral(feature) for lateral, feature in zip(self.laterals, features, strict=True)]
        top = maps[-1]
        for lateral in reversed(maps[1:] if self.wrong else maps[:-1]):
            top = lateral + F.interpolate(top, size=lateral.shape[-2:])
        return F.interpolate(self.head(self.smooth(top).relu()), size=image.shape[-2:], mode="bilinear")


plant_declared(
    "lateral_maps_one_stage_too_deep",
    Pyramid,
    SEGMENTATION,
    "gradient_flow[reaches_every_parameter]",
    code="no_gradient",
    source="vanvalenlab/deepcell-tf#332",
)


class OneStage(nn.Module):
    """Boxes around anchors, which are made once for a size; the bug asks how many there are, not how they lie."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.body, self.scores, self.boxes = nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(8, 3, 1), nn.Conv2d(8, 4, 1)
        self.made_for: tuple[int, int] = (0, 0)
        self.anchors = torch.zeros(0, 2)

    def make_anchors(self, height: int, width: int) -> None:
        same = len(self.anchors) == height * width if self.wrong else self.made_for == (height, width)
        if not same:
            rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
            self.anchors, self.made_for = torch.stack([columns, rows], -1).view(-1, 2), (height, width)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(image).relu()
        self.make_anchors(*x.shape[-2:])
        centres, sides = self.boxes(x).flatten(2).transpose(1, 2).chunk(2, -1)
        return self.scores(x).flatten(2).transpose(1, 2), torch.cat([centres + self.anchors.to(x), sides.clamp(max=4).exp()], -1)


plant_declared(
    "anchors_of_another_image",
    OneStage,
    {
        "inputs": {"image": IMAGE},
        "outputs": {
            "scores": {"axes": ["batch", "cells", 3], "kind": "class_scores"},
            "boxes": {"axes": ["batch", "cells", 4], "kind": "values"},
        },
        "axes": {**SIZES, "cells": {"from": "(height // 4) * (width // 4)"}},
    },
    "stateless",
    source="a grid kept by its number of cells, as of detectors that keep their anchors",
)


class Queries(nn.Module):
    """A detector with object queries; the bug lets the layer of its encoder take the images for the places."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.backbone, self.project = nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(8, 16, 1)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=not wrong)
        self.decoder = nn.MultiheadAttention(16, 2, batch_first=True)
        self.queries, self.row, self.column = nn.Embedding(5, 16), nn.Embedding(8, 8), nn.Embedding(8, 8)
        self.classes, self.boxes = nn.Linear(16, 4), nn.Linear(16, 4)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = self.project(self.backbone(image).relu())
        height, width = x.shape[-2:]
        rows = self.row.weight[:height, None].expand(-1, width, -1)
        columns = self.column.weight[None, :width].expand(height, -1, -1)
        places = torch.cat([columns, rows], -1).flatten(0, 1)
        memory = self.encoder(x.flatten(2).transpose(1, 2) + places)
        found = self.decoder(self.queries.weight.expand(len(image), -1, -1), memory, memory)[0]
        return {"pred_logits": self.classes(found), "pred_boxes": self.boxes(found).sigmoid()}


plant_declared(
    "attention_over_the_images",
    Queries,
    {
        "inputs": {"image": IMAGE},
        "outputs": {
            "pred_logits": {"axes": ["batch", 5, 4], "kind": "class_scores"},
            "pred_boxes": {"axes": ["batch", 5, 4], "range": [0.0, 1.0]},
        },
        "axes": SIZES,
    },
    "batch_independence[forward]",
    module="encoder",
    also=("batch_independence[gradient]",),
    source="om-ai-lab/OmDet#19",
)


class KeyPoints(nn.Module):
    """The mean place of each heat map, from 0 to 1; the bug divides by the other side."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.body, self.heat = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        heat = self.heat(self.body(image).relu())
        height, width = heat.shape[-2:]
        heat = heat.flatten(2).softmax(-1).unflatten(-1, (height, width))
        x = (heat.sum(2) * torch.arange(width, device=heat.device)).sum(-1)
        y = (heat.sum(3) * torch.arange(height, device=heat.device)).sum(-1)
        sides = (height, width) if self.wrong else (width, height)
        return torch.stack([x / sides[0], y / sides[1]], -1)


plant_declared(
    "places_divided_by_the_other_side",
    KeyPoints,
    {
        "inputs": {"image": IMAGE},
        "outputs": {"points": {"axes": ["batch", 4, 2], "range": [0.0, 1.0]}},
        "axes": SIZES,
    },
    "declared_outputs",
    source="jeffffffli/res-loglikelihood-regression#10",
)


class DiffusionTransformer(nn.Module):
    """A block over patches, modulated by step and class; the bug puts the patches together as if the image were square."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.patches = nn.Conv2d(3, 16, 4, stride=4)
        self.step, self.kind = nn.Embedding(100, 16), nn.Embedding(10, 16)
        self.norm, self.modulate = nn.LayerNorm(16, elementwise_affine=False), nn.Linear(16, 48)
        self.attention, self.last = nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, 4 * 4 * 3)

    def put_together(self, x: Tensor, height: int, width: int) -> Tensor:
        if self.wrong:
            height = width = int(x.shape[1] ** 0.5)
        x = x.reshape(len(x), height, width, 4, 4, 3)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(len(x), 3, height * 4, width * 4)

    def forward(self, image: Tensor, step: Tensor, kind: Tensor) -> Tensor:
        x = self.patches(image)
        height, width = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2)
        shift, scale, gate = self.modulate(F.silu(self.step(step) + self.kind(kind)))[:, None].chunk(3, -1)
        seen = self.norm(x) * (1 + scale) + shift
        x = x + gate * self.attention(seen, seen, seen, need_weights=False)[0]
        return self.put_together(self.last(x), height, width)


plant_declared(
    "patches_put_together_as_a_square",
    DiffusionTransformer,
    {
        "inputs": {
            "image": IMAGE,
            "step": {"axes": ["batch"], "values": {"ids": 100}},
            "kind": {"axes": ["batch"], "values": {"ids": 10}},
        },
        "outputs": {"noise": {"axes": ["batch", 3, "height", "width"]}},
        "axes": {name: {**axis, "multiple_of": 4} for name, axis in SIZES.items()},
    },
    "shape_contract",
    source="facebookresearch/DiT#91",
)


class TimeEmbedding(nn.Module):
    """Sines and cosines of a step; the bug takes every second row of the batch, not every second column."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.register_buffer("frequencies", 0.5 ** torch.arange(16.0))
        self.mix = nn.Linear(16, 8)

    def forward(self, step: Tensor) -> Tensor:
        angles = step[:, None] * self.frequencies
        waves = torch.zeros_like(angles)
        if self.wrong:
            waves[::2], waves[1::2] = angles[::2].sin(), angles[1::2].cos()
        else:
            waves[:, ::2], waves[:, 1::2] = angles[:, ::2].sin(), angles[:, 1::2].cos()
        return self.mix(waves)


class TimedDenoiser(nn.Module):
    """The noise in an image, by its step."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.time, self.enter, self.leave = TimeEmbedding(wrong), nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, image: Tensor, step: Tensor) -> Tensor:
        return self.leave(F.silu(self.enter(image) + self.time(step)[..., None, None]))


plant_declared(
    "waves_of_a_step_along_the_batch",
    TimedDenoiser,
    {
        "inputs": {"image": IMAGE, "step": {"axes": ["batch"], "values": {"ids": 1000}}},
        "outputs": {"noise": {"axes": ["batch", 3, "height", "width"]}},
        "axes": SIZES,
    },
    "batch_independence[forward]",
    module="time",
    source="gmongaras/Diffusion_models_from_scratch#10",
)


class Quantiser(nn.Module):
    """The nearest code of each place; codes follow what is near them, in the bug also when the model is evaluated."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        codes = torch.randn(12, 6)
        self.register_buffer("codes", codes)
        self.register_buffer("counts", torch.ones(12))
        self.register_buffer("sums", codes.clone())

    @torch.no_grad()
    def follow(self, flat: Tensor, nearest: Tensor) -> None:
        chosen = F.one_hot(nearest, 12).to(flat.dtype)
        self.counts.mul_(0.9).add_(0.1 * chosen.sum(0))
        self.sums.mul_(0.9).add_(0.1 * chosen.t() @ flat)
        self.codes.copy_(self.sums / self.counts.clamp(min=1e-3)[:, None])

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, 6)
        nearest = torch.cdist(flat, self.codes).argmin(1)
        found = self.codes[nearest].view_as(x)
        if self.training or self.wrong:
            self.follow(flat.detach(), nearest)
        return x + (found - x).detach()


class Codebook(nn.Module):
    """An image from the nearest codes of its places."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.encoder, self.quantiser, self.decoder = (
            nn.Conv2d(3, 6, 2, stride=2),
            Quantiser(wrong),
            nn.ConvTranspose2d(6, 3, 2, stride=2),
        )

    def forward(self, image: Tensor) -> Tensor:
        found = self.quantiser(self.encoder(image).permute(0, 2, 3, 1))
        return self.decoder(found.permute(0, 3, 1, 2))


plant_declared(
    "codes_moved_by_evaluation",
    Codebook,
    {
        "inputs": {"image": IMAGE},
        "outputs": {"image": {"axes": ["batch", 3, "height", "width"], "fits": False}},
        "labels": {"image": {"from": "image"}},
        "axes": {name: {**axis, "multiple_of": 2} for name, axis in SIZES.items()},
    },
    "stateless",
    module="quantiser",
    source="lucidrains/vector-quantize-pytorch#167, a codebook that follows whenever it is called",
)


class Frames(nn.Module):
    """Scores of a video, the mean of those of its frames; the bug views channels as frames."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.body, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, video: Tensor) -> Tensor:
        batch, channels, time, height, width = video.shape
        if not self.wrong:
            video = video.transpose(1, 2)
        x = self.body(video.reshape(batch * time, channels, height, width)).relu().mean((2, 3))
        return self.head(x).view(batch, time, -1).mean(1)


plant_declared(
    "channels_viewed_as_frames",
    Frames,
    {
        "inputs": {"video": {"axes": ["batch", 3, "frames", 8, 8]}},
        "outputs": {"scores": {"axes": ["batch", 4], "kind": "class_scores"}},
        "axes": {"frames": {"min": 2, "max": 6, "order": "none"}},
    },
    "permutation",
    source="weirme/FCSN#12",
)
