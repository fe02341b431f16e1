"""Image classifiers: a convolutional network and a vision transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.evidence import Status

from ..register import HUMBATOVA, ISLAM, PYTORCH, ZHANG, planted
from ..tasks import CHANNELS, CLASSES, IMAGES, SIDE
from .parts import WIDTH, Block

PATCH = 4
PATCHES = (SIDE // PATCH) ** 2


class ConvNet(nn.Module):
    """Two convolutions with batch norm and average pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(CHANNELS, WIDTH, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(WIDTH)
        self.conv2 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(WIDTH)
        self.act = nn.ReLU()
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(self.pool(self.features(self.prepare(pixel_values))))

    def prepare(self, pixels: Tensor) -> Tensor:
        return pixels

    def features(self, x: Tensor) -> Tensor:
        x = self.act(self.norm1(self.conv1(x)))
        return self.act(self.norm2(self.conv2(x)))

    def pool(self, x: Tensor) -> Tensor:
        return x.mean((-2, -1))


class VisionTransformer(nn.Module):
    """Patches, a class token and two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(CHANNELS, WIDTH, PATCH, PATCH)
        self.start = nn.Parameter(0.02 * torch.randn(1, 1, WIDTH))
        self.positions = nn.Parameter(0.02 * torch.randn(1, PATCHES + 1, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.patches(self.standardise(pixel_values)).flatten(2).mT
        x = torch.cat((self.start.expand(len(x), -1, -1), x), 1) + self.positions
        visible = torch.ones(1, 1, 1, x.shape[1], dtype=torch.bool, device=x.device)
        for block in self.blocks:
            x = block(x, visible)
        return self.head(self.read(self.norm(x)))

    def standardise(self, pixels: Tensor) -> Tensor:
        centred = pixels - pixels.mean((1, 2, 3), keepdim=True)
        return centred / (centred.square().mean((1, 2, 3), keepdim=True) + 1e-5).sqrt()

    def read(self, x: Tensor) -> Tensor:
        return x[:, 0]


@planted(
    "batch_independence[forward]",
    task=IMAGES,
    sound=ConvNet,
    module="norm2",
    source=f"{PYTORCH}: BatchNorm without running statistics",
    also=("batch_independence[gradient]",),
)
class BatchStatisticsInEval(ConvNet):
    def __init__(self) -> None:
        super().__init__()
        self.norm2 = nn.BatchNorm2d(WIDTH, track_running_stats=False)


@planted("input_dependence[channels]", task=IMAGES, sound=ConvNet, source=f"{HUMBATOVA}: wrong preprocessing of an input")
class BlueReplacedByGreen(ConvNet):
    def prepare(self, pixels: Tensor) -> Tensor:
        return pixels[:, [0, 1, 1]]


class _GreyConvolution(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.cat((x[:, :2], torch.zeros_like(x[:, 2:])), 1))


@planted(
    "input_dependence[channels]",
    task=IMAGES,
    sound=ConvNet,
    module="conv1",
    source=f"{HUMBATOVA}: wrong preprocessing of an input",
)
class ChannelZeroedInTheStem(ConvNet):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _GreyConvolution(CHANNELS, WIDTH, 3, padding=1)


@planted("input_dependence[regions]", task=IMAGES, sound=ConvNet, source=f"{HUMBATOVA}: wrong preprocessing of an input")
class LowerRightQuarterCropped(ConvNet):
    def pool(self, x: Tensor) -> Tensor:
        half = x.shape[-1] // 2 - 2
        return x[..., :half, :half].mean((-2, -1))


@planted("inputs_unchanged", task=IMAGES, sound=ConvNet, source=f"{PYTORCH}: in-place operations change the caller's tensor")
class PixelsNormalisedInPlace(ConvNet):
    def prepare(self, pixels: Tensor) -> Tensor:
        return pixels.sub_(0.45).div_(0.225)


@planted(
    "inputs_unchanged",
    task=IMAGES,
    sound=ConvNet,
    module="act",
    source=f"{PYTORCH}: in-place operations change the caller's tensor",
)
class ActivationInPlaceOnTheInput(ConvNet):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def prepare(self, pixels: Tensor) -> Tensor:
        return self.act(pixels)


class AdaptedNet(ConvNet):
    """A head with an adapter that is merged for inference."""

    def __init__(self) -> None:
        super().__init__()
        self.adapter = nn.Parameter(0.05 * torch.randn(CLASSES, WIDTH))

    def train(self, mode: bool = True) -> ConvNet:
        if mode is not self.training:
            self.merge(-1 if mode else 1)
        return super().train(mode)

    def merge(self, sign: int) -> None:
        self.head.weight.data += sign * self.adapter.data

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.pool(self.features(pixel_values))
        return self.head(x) + x @ self.adapter.T if self.training else self.head(x)


@planted(
    "mode_round_trip",
    task=IMAGES,
    sound=AdaptedNet,
    source="Hu et al. 2022, LoRA: merged weights must be unmerged to go on training",
)
class AdapterMergedAtEveryEval(AdaptedNet):
    def merge(self, sign: int) -> None:
        if sign > 0:
            super().merge(sign)


@planted("stateless", task=IMAGES, sound=ConvNet, source=f"{HUMBATOVA}: a table that is made for the first image size and kept")
class RampOfTheFirstSize(ConvNet):
    def __init__(self) -> None:
        super().__init__()
        self.step: float | None = None

    def prepare(self, pixels: Tensor) -> Tensor:
        if self.step is None:
            self.step = 1 / pixels.shape[-1]
        return pixels + self.step * torch.arange(pixels.shape[-1], dtype=pixels.dtype, device=pixels.device)


@planted("stateless", task=IMAGES, sound=ConvNet, source=f"{HUMBATOVA}: statistics that go on being updated in eval mode")
class RunningMeanUpdatedInEval(ConvNet):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(CHANNELS, 1, 1))

    def prepare(self, pixels: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * pixels.detach().mean((0, 2, 3))[:, None, None]
        return pixels - self.mean


@planted(
    "initialisation[loss]",
    task=IMAGES,
    sound=ConvNet,
    source="Karpathy 2019, A Recipe for Training Neural Networks: verify loss at init",
)
class HeadTooLoud(ConvNet):
    def __init__(self) -> None:
        super().__init__()
        nn.init.normal_(self.head.weight, std=10.0)


@planted(
    "gradient_flow[reaches_every_parameter]",
    task=IMAGES,
    sound=ConvNet,
    module="act",
    source="Lu et al. 2019, Dying ReLU and Initialization: Theory and Numerical Examples",
)
class ReluDead(ConvNet):
    def __init__(self) -> None:
        super().__init__()
        nn.init.constant_(self.norm1.bias, -100.0)


@planted(
    "memory_layout",
    task=IMAGES,
    sound=VisionTransformer,
    module="(model)",
    status=Status.WARN,
    code="raises_on_layout",
    source=f"{PYTORCH}: view needs contiguous memory",
)
class MeanByView(VisionTransformer):
    def standardise(self, pixels: Tensor) -> Tensor:
        flat = pixels.view(len(pixels), -1)
        scale = (flat.var(1, unbiased=False) + 1e-5).sqrt()
        return (pixels - flat.mean(1)[:, None, None, None]) / scale[:, None, None, None]


@planted("finite_output[extremes]", task=IMAGES, sound=VisionTransformer, module="(model)", source=f"{ZHANG}: division by zero")
class StandardisedWithoutEps(VisionTransformer):
    def standardise(self, pixels: Tensor) -> Tensor:
        return (pixels - pixels.mean((1, 2, 3), keepdim=True)) / pixels.std((1, 2, 3), keepdim=True)


@planted("shape_contract", task=IMAGES, sound=VisionTransformer, source=f"{ISLAM}: the batch axis lost or fixed")
class ClassTokenForFourRows(VisionTransformer):
    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.patches(self.standardise(pixel_values)).reshape(-1, WIDTH, PATCHES).mT
        x = torch.cat((self.start.expand(min(len(x), 4), -1, -1), x), 1) + self.positions
        visible = torch.ones(1, 1, 1, x.shape[1], dtype=torch.bool, device=x.device)
        for block in self.blocks:
            x = block(x, visible)
        return self.head(self.read(self.norm(x)))
