"""Reported bugs of sizes: odd, not square, empty, and of what a stride leaves out, drawn without a look at the checks."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.evidence import Status
from tests.planted_bugs.setups import Model

from .register import FirstRun, task_of, wild

WIDTH = 8
FREE_IMAGES = task_of(
    inputs={"image": {"axes": ["batch", 3, "height", "width"]}},
    outputs={"features": {"axes": ["batch", 4, "height", "width"], "kind": "values"}},
    axes={"height": {"min": 4, "max": 13}, "width": {"min": 4, "max": 13}},
)
WIDE_IMAGES = task_of(
    inputs={"image": {"axes": ["batch", 3, 8, 12]}}, outputs={"scores": {"axes": ["batch", 4], "kind": "class_scores"}}
)
MOLECULES = task_of(
    inputs={
        "x": {"axes": ["nodes", 4]},
        "graph": {"axes": ["nodes"], "values": {"index_of": "batch"}},
        "conditions": {"axes": ["batch", 2]},
    },
    outputs={"energy": {"axes": ["batch"], "kind": "values"}},
    axes={"nodes": {"min": 1, "max": 12, "order": "none"}},
)
SOUNDS = task_of(
    inputs={"wave": {"axes": ["batch", 1, "samples"]}},
    outputs={"codes": {"axes": ["batch", WIDTH, "frames"], "kind": "values"}},
    axes={"samples": {"min": 8, "max": 48, "multiple_of": 4, "order": "causal"}, "frames": {"from": "samples // 4"}},
)
CODES = task_of(
    inputs={"codes": {"axes": ["batch", WIDTH, "frames"]}},
    outputs={"wave": {"axes": ["batch", 1, "samples"], "kind": "values"}},
    axes={"frames": {"min": 2, "max": 12, "order": "causal"}, "samples": {"from": "frames * 2"}},
)


class Octave(nn.Module):
    """Fine and coarse features that are added; the bug doubles the coarse ones, which misses the last row of an odd image."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.fine, self.coarse = nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        coarse = self.coarse(F.avg_pool2d(x, 2, ceil_mode=not self.wrong))
        larger = F.interpolate(coarse, scale_factor=2) if self.wrong else F.interpolate(coarse, size=x.shape[-2:])
        return self.fine(x) + larger


class OctaveNet(nn.Module):
    """An octave convolution between two small ones."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.stem, self.octave, self.head = nn.Conv2d(3, WIDTH, 1), Octave(wrong), nn.Conv2d(WIDTH, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.octave(self.stem(image)).relu())


class WidePatches(nn.Module):
    """Patches with learnt places for an image that is not square; the bug resizes them from a square grid that never was."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.grid = wrong, (2, 3)
        self.patches, self.head = nn.Conv2d(3, WIDTH, 4, stride=4), nn.Linear(WIDTH, 4)
        self.places = nn.Parameter(torch.randn(1, 6, WIDTH) * 0.5)

    def placed(self, height: int, width: int) -> Tensor:
        if (height == width and self.places.shape[1] == height * width) or (not self.wrong and (height, width) == self.grid):
            return self.places
        grid = (int(self.places.shape[1] ** 0.5),) * 2 if self.wrong else self.grid
        assert grid[0] * grid[1] == self.places.shape[1]
        table = self.places.unflatten(1, grid).permute(0, 3, 1, 2)
        return F.interpolate(table, size=(height, width), mode="bilinear").flatten(2).transpose(1, 2)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.patches(image)
        x = patches.flatten(2).transpose(1, 2) + self.placed(*patches.shape[-2:])
        return self.head(x.tanh().mean(1))


class Pooled(nn.Module):
    """Energies of molecules; the bug counts the molecules by the last atom, and misses one without atoms at the end."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.atom, self.head = nn.Linear(4, WIDTH), nn.Linear(WIDTH + 2, 1)

    def forward(self, x: Tensor, graph: Tensor, conditions: Tensor) -> Tensor:
        number = int(graph.max()) + 1 if self.wrong else len(conditions)
        atoms = self.atom(x).tanh()
        pooled = atoms.new_zeros(number, WIDTH).index_add(0, graph, atoms)
        return self.head(torch.cat([pooled, conditions], 1)).squeeze(1)


class CausalConv(nn.Module):
    """A convolution with all padding on the left; the bug pads as without a stride, and the last samples are never read."""

    def __init__(self, narrow: int, wide: int, stride: int, wrong: bool) -> None:
        super().__init__()
        kernel = 2 * stride
        self.padding = kernel - 1 if wrong else kernel - stride
        self.conv = nn.Conv1d(narrow, wide, kernel, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (self.padding, 0)))


class SoundEncoder(nn.Module):
    """A wave in frames of four samples."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.first, self.second = CausalConv(1, WIDTH, 2, wrong), CausalConv(WIDTH, WIDTH, 2, wrong)

    def forward(self, wave: Tensor) -> Tensor:
        return self.second(F.elu(self.first(wave)))


class CausalUpsampling(nn.Module):
    """Frames that are made longer; the bug trims both sides, which loses the first frame and moves all others forward."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(WIDTH, WIDTH, 4, stride=2)
        self.right = 2
        self.left = self.right if wrong else 0

    def forward(self, x: Tensor) -> Tensor:
        longer = self.conv(x)
        return longer[..., self.left : longer.shape[-1] - self.right]


class SoundDecoder(nn.Module):
    """Frames as a wave of two samples each."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.upsample, self.out = CausalUpsampling(wrong), nn.Conv1d(WIDTH, 1, 1)

    def forward(self, codes: Tensor) -> Tensor:
        return self.out(F.elu(self.upsample(codes)))


def refused(inputs: tuple[Tensor, ...], model: nn.Module) -> float:
    """1 where a call raises."""
    try:
        with torch.no_grad():
            model(*inputs)
    except (RuntimeError, AssertionError):
        return 1.0
    return 0.0


def unread_samples(model: nn.Module) -> float:
    """The share of the last four samples that no code depends on."""
    wave = torch.randn(1, 1, 32, requires_grad=True)
    model(wave).square().sum().backward()
    return float((wave.grad[0, 0, -4:] == 0).float().mean())


def missing_samples(model: nn.Module) -> float:
    """How many samples eight frames lack."""
    with torch.no_grad():
        return float(abs(model(torch.randn(1, WIDTH, 8)).shape[-1] - 16))


_drawn = partial(wild, area="axes", draw=2)
_drawn(
    "octave_of_an_odd_image",
    title="An octave convolution adds coarse features that are twice as large, which does not fit where a side is odd",
    report="koshian2/OctConv-TFKeras#12",
    field="vision",
    test="shape_contract",
    setup=partial(Model, FREE_IMAGES),
    buggy=partial(OctaveNet, True),
    sound=OctaveNet,
    wrong=partial(refused, (torch.ones(1, 3, 7, 9),)),
    module="octave",
    first_run=FirstRun("d13d60a", found=True, named=True, said="shape_contract fails in octave"),
)
_drawn(
    "places_of_a_wide_image",
    title="A model that was made for images that are not square resizes its places from a square grid, and asserts",
    report="facebookresearch/dinov2#506",
    field="vision",
    test="shape_contract",
    setup=partial(Model, WIDE_IMAGES),
    buggy=partial(WidePatches, True),
    sound=WidePatches,
    wrong=partial(refused, (torch.ones(1, 3, 8, 12),)),
    module="(model)",
    first_run=FirstRun("d13d60a", found=True, named=True, said="shape_contract fails in (model), with the line"),
)
_drawn(
    "last_graph_without_nodes",
    title="Sums over the nodes of each graph leave out the last graph of a batch where it has no nodes",
    report="pyg-team/pytorch_geometric#2895",
    field="graphs",
    test="shape_contract",
    setup=partial(Model, MOLECULES),
    buggy=partial(Pooled, True),
    sound=Pooled,
    wrong=partial(refused, (torch.ones(3, 4), torch.tensor([0, 0, 1]), torch.ones(3, 2))),
    module="(model)",
    first_run=FirstRun(
        "d13d60a",
        found=True,
        named=True,
        said="shape_contract fails in (model), with the line, and 13 other tests",
        alarms=("batch_independence[forward]", "rare_contents[flat_rows]"),
    ),
)
_drawn(
    "stride_forgotten_in_causal_padding",
    title="A causal convolution with a stride pads as if it had none, and never reads the last samples",
    report="lucidrains/audiolm-pytorch#166",
    field="speech",
    test="input_dependence[inputs]",
    status=Status.WARN,
    setup=partial(Model, SOUNDS),
    buggy=partial(SoundEncoder, True),
    sound=SoundEncoder,
    wrong=unread_samples,
    module="first",
    first_run=FirstRun("d13d60a", found=False, named=False, said="nothing"),
)
_drawn(
    "upsampling_trimmed_on_both_sides",
    title="A causal transposed convolution is trimmed on the left as on the right, and loses its first frame",
    report="vllm-project/vllm-omni#1241",
    field="speech",
    test="shape_contract",
    or_tests=("causal", "declared_outputs"),
    setup=partial(Model, CODES),
    buggy=partial(SoundDecoder, True),
    sound=SoundDecoder,
    wrong=missing_samples,
    module="upsample",
    first_run=FirstRun("d13d60a", found=True, named=False, said="shape_contract fails and names no module"),
)
