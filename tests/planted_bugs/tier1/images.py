"""Models that read images or write them, declared by their signature; each has a bug of a kind that people report."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .declared import Keys, plant_declared

IMAGE = {"axes": ["batch", 3, "height", "width"]}
FREE: Keys = {"height": {"min": 8, "max": 21}, "width": {"min": 8, "max": 21}}
EVEN: Keys = {name: {**axis, "multiple_of": 4, "max": 24} for name, axis in FREE.items()}


class UNet(nn.Module):
    """Two stages down and up again, for a mask as large as the image; sizes are padded to multiples of four."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        self.wrong = wrong
        self.first, self.second, self.third = (nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, 6), (6, 6), (6, 6)))
        self.laterals = nn.ModuleList(nn.Conv2d(6, 6, 1) for _ in range(2))
        self.up, self.head = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 2, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        if self.wrong != "crops":
            image = F.pad(image, (0, -width % 4, 0, -height % 4))
        first = self.first(image).relu()
        second = self.second(F.max_pool2d(first, 2)).relu()
        third = self.third(F.max_pool2d(second, 2)).relu()
        skips = [self.laterals[0](first), self.laterals[1](second)]
        if self.wrong == "stage":
            skips[1] = F.max_pool2d(skips[0], 2)
        middle = self.up(
            F.interpolate(third, scale_factor=2) + skips[1][..., : third.shape[-2] * 2, : third.shape[-1] * 2]
        ).relu()
        top = F.interpolate(middle, scale_factor=2)
        mask = self.head(top + skips[0][..., : top.shape[-2], : top.shape[-1]])
        return mask[..., :height, :width]


MASK = {"mask": {"axes": ["batch", 2, "height", "width"], "kind": "class_scores", "classes": 1}}
UNET: Keys = {"inputs": {"image": IMAGE}, "outputs": MASK, "axes": FREE}
plant_declared(
    "skip_of_the_wrong_stage",
    UNet,
    UNET,
    "gradient_flow[reaches_every_parameter]",
    wrong="stage",
    source="U-Net implementations, a list of skips read from the wrong end",
)


class Windows(nn.Module):
    """A mean over windows of four by four, after positions that are resized to the image; the bugs turn the sides, or need a whole window."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        self.wrong = wrong
        self.positions = nn.Parameter(torch.randn(1, 6, 5, 5))
        self.enter, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        sides = (width, height) if self.wrong == "turned" else (height, width)
        x = self.enter(image) + F.interpolate(self.positions, size=sides, mode="bilinear")
        if self.wrong != "window":
            x = F.pad(x, (0, -width % 4, 0, -height % 4))
        means = F.avg_pool2d(x, 4)
        x = x + F.interpolate(means, size=x.shape[-2:])
        return self.head(x)[..., :height, :width]


SMALL: Keys = {"inputs": {"image": IMAGE}, "outputs": MASK, "axes": {name: {"min": 2, "max": 13} for name in FREE}}
for _name, _wrong in (("positions_resized_with_sides_turned", "turned"), ("image_smaller_than_a_window", "window")):
    plant_declared(
        _name, Windows, SMALL, "shape_contract", wrong=_wrong, source="huggingface/pytorch-image-models, sizes of images"
    )
plant_declared(
    "odd_sizes_cropped",
    UNet,
    UNET,
    "shape_contract",
    wrong="crops",
    source="milesial/Pytorch-UNet, sizes that 2**n does not divide",
)


class Segmenter(nn.Module):
    """Probabilities of classes for each pixel; the bug takes the softmax along the width."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image).softmax(-1 if self.wrong else 1)


plant_declared(
    "softmax_along_the_width",
    Segmenter,
    {
        "inputs": {"image": IMAGE},
        "outputs": {"shares": {"axes": ["batch", 4, "height", "width"], "kind": "probabilities", "classes": 1}},
        "axes": FREE,
    },
    "declared_outputs",
    source="PyTorch forums, softmax over the wrong dimension",
)


class Denoiser(nn.Module):
    """The noise in an image at a step of diffusion; the bug adds the step to features that are computed again."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.steps, self.enter, self.leave = nn.Embedding(50, 8), nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, image: Tensor, step: Tensor) -> Tensor:
        hidden = self.enter(image)
        moved = hidden + self.steps(step)[:, :, None, None]
        return self.leave(F.silu(hidden + 0 * moved if self.wrong else moved))


plant_declared(
    "step_of_diffusion_ignored",
    Denoiser,
    {
        "inputs": {"image": IMAGE, "step": {"axes": ["batch"], "values": {"ids": 50}}},
        "outputs": {"noise": {"axes": ["batch", 3, "height", "width"]}},
        "axes": EVEN,
    },
    "input_dependence[inputs]",
    also=("gradient_flow[reaches_every_parameter]",),
    source="lucidrains/denoising-diffusion-pytorch, time embedding that reaches no block",
)


class Autoencoder(nn.Module):
    """Pixels between 0 and 1, and the code they were made from; the bug ends in a tanh."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.enter, self.leave = nn.Linear(12, 5), nn.Linear(5, 12)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        code = self.enter(pixels).tanh()
        written = self.leave(code)
        return {"pixels": written.tanh() if self.wrong else written.sigmoid(), "code": code}


plant_declared(
    "tanh_where_pixels_start_at_zero",
    Autoencoder,
    {
        "inputs": {"pixels": {"axes": ["batch", 12], "values": {"range": [0.0, 1.0]}}},
        "outputs": {
            "pixels": {"axes": ["batch", 12], "range": [0.0, 1.0]},
            "code": {"axes": ["batch", 5], "range": [-1.0, 1.0], "weight": 0.1},
        },
        "labels": {"pixels": {"from": "pixels"}},
    },
    "declared_outputs",
    source="PyTorch forums, an autoencoder whose output range is not that of its input",
)


class Codes(nn.Module):
    """Reads the codes of a quantised image; the bug counts them from one."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.codebook, self.leave = nn.Embedding(32, 6), nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, codes: Tensor) -> Tensor:
        return self.leave(self.codebook(codes + 1 if self.wrong else codes).permute(0, 3, 1, 2))


plant_declared(
    "codebook_counted_from_one",
    Codes,
    {
        "inputs": {"codes": {"axes": ["batch", "height", "width"], "values": {"ids": 32}}},
        "outputs": {"image": {"axes": ["batch", 3, "height", "width"]}},
        "axes": FREE,
    },
    "shape_contract",
    source="CompVis/taming-transformers, index of a codebook out of range",
)


class Detector(nn.Module):
    """A box for each cell of the image, in parts of it; the bug takes every image for one of sixteen pixels."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.net = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        height, width = (16, 16) if self.wrong else image.shape[-2:]
        rows = torch.arange(image.shape[-2], device=image.device, dtype=image.dtype)[:, None]
        columns = torch.arange(image.shape[-1], device=image.device, dtype=image.dtype)
        offset = self.net(image).sigmoid()
        return torch.stack(((rows + offset[:, 0]) / height, (columns + offset[:, 1]) / width), -1)


plant_declared(
    "anchors_of_a_fixed_image",
    Detector,
    {
        "inputs": {"image": IMAGE},
        "outputs": {"centres": {"axes": ["batch", "height", "width", 2], "range": [0.0, 1.0]}},
        "axes": FREE,
    },
    "declared_outputs",
    source="YOLO implementations, a grid kept for one image size",
)


class Regressor(nn.Module):
    """A number for an image; the bugs drop a channel, or normalise by the batch at hand in eval mode too."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        self.wrong = wrong
        self.net = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6, track_running_stats=wrong != "batch")
        self.head = nn.Linear(6, 1)

    def forward(self, image: Tensor) -> Tensor:
        if self.wrong == "channel":
            image = torch.cat((image[:, :2], image[:, :1]), 1)
        return self.head(F.silu(self.norm(self.net(image))).mean((2, 3))).squeeze(-1)


NUMBER: Keys = {"inputs": {"image": IMAGE}, "outputs": {"age": {"axes": ["batch"]}}, "axes": FREE}
plant_declared(
    "channel_read_twice", Regressor, NUMBER, "input_dependence[inputs]", wrong="channel", source="PyTorch forums, BGR and RGB"
)
plant_declared(
    "batch_statistics_in_eval_mode",
    Regressor,
    NUMBER,
    "batch_independence[forward]",
    wrong="batch",
    module="norm",
    also=("batch_independence[gradient]",),
    source="PyTorch forums, track_running_stats=False",
)
