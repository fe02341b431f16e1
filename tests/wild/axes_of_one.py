"""Reported bugs of contents, and of axes and their sizes: the sixth draw."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.planted_bugs.setups import Model

from .register import FirstRun, pair_of_one_class, task_of

WIDTH, WORDS, CLASSES, FEATURES = 16, 23, 4, 6
IMAGES = task_of(task_type="image_classification", image_size=[3, 8, 8], num_classes=CLASSES)
WIDE = task_of(task_type="image_classification", image_size=[3, 8, 24], num_classes=CLASSES)
TABLE = task_of(task_type="tabular_classification", num_features=FEATURES, num_classes=3)
LINES = task_of(task_type="sequence_classification", vocab_size=WORDS, max_seq_len=12, num_classes=CLASSES)
GRAPH = task_of(
    inputs={
        "nodes": {"axes": ["nodes", FEATURES]},
        "edges": {"axes": [2, "edges"], "values": {"index_of": "nodes"}},
    },
    outputs={"scores": {"axes": ["nodes", CLASSES], "kind": "class_scores"}},
    axes={"nodes": {"min": 1, "max": 8}, "edges": {"min": 0, "max": 12}},
)
SPEECH = task_of(
    inputs={
        "frames": {"axes": ["batch", "time", 5]},
        "real": {"axes": ["batch", "time"], "values": {"mask_of": "time"}},
    },
    outputs={"scores": {"axes": ["batch", CLASSES], "kind": "class_scores"}},
    axes={"time": {"min": 2, "max": 12, "padding": "right"}},
)
SCENES = task_of(
    inputs={"stack": {"axes": ["batch", "bands", 8, 8]}},
    outputs={"scores": {"axes": ["batch", CLASSES], "kind": "class_scores"}},
    axes={"bands": {"min": 3, "max": 12, "multiple_of": 3}},
)
STATES = task_of(
    inputs={"state": {"axes": ["batch", FEATURES]}},
    outputs={"worth": {"axes": ["batch"], "kind": "values"}},
)
POINTS = task_of(
    inputs={"image": {"axes": ["batch", 3, 8, 8]}},
    outputs={"point": {"axes": ["batch", 2], "kind": "values"}},
)


@torch.no_grad()
def undefined(draw: Callable[[], tuple[Tensor, ...]], model: nn.Module) -> float:
    """Whether an answer is not finite."""
    return float(not bool(model.eval()(*draw()).isfinite().all()))


@torch.no_grad()
def refused(draw: Callable[[], tuple[Tensor, ...]], shape: tuple[int, ...], model: nn.Module) -> float:
    """Whether a batch is refused, or answered in another shape."""
    try:
        return float(model.eval()(*draw()).shape != shape)
    except RuntimeError:
        return 1.0


class Scaled(nn.Module):
    """A table with the spread of its columns, of which one never varied; the bug divides by it."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.net = wrong, nn.Sequential(nn.Linear(FEATURES, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 3))
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("variance", torch.tensor([1.0, 0.5, 0.0, 2.0, 1.0, 1.0]))

    def forward(self, features: Tensor) -> Tensor:
        spread = self.variance.sqrt() if self.wrong else self.variance.where(self.variance > 0, 1.0).sqrt()
        return self.net((features - self.mean) / spread)


class Averaged(nn.Module):
    """A graph of which each node reads the mean of its neighbours; the bug divides by their number, which may be none."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.own, self.others = wrong, nn.Linear(FEATURES, CLASSES), nn.Linear(FEATURES, CLASSES)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        summed = torch.zeros_like(nodes).index_add(0, edges[1], nodes[edges[0]])
        degree = nodes.new_zeros(len(nodes)).index_add(0, edges[1], nodes.new_ones(edges.shape[1]))
        degree = degree if self.wrong else degree.clamp(min=1)
        return self.own(nodes) + self.others(summed / degree[:, None])


class Windows(nn.Module):
    """Attention of each word to its neighbours; the bug leaves a word between paddings nothing to attend to."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.words = wrong, nn.Embedding(WORDS, WIDTH)
        self.read, self.head = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x, real, places = self.words(input_ids), attention_mask.bool(), torch.arange(input_ids.shape[1], device=input_ids.device)
        query, key, value = self.read(x).chunk(3, -1)
        near = ((places[:, None] - places).abs() <= 1) & real[:, None]
        scores = (query @ key.transpose(1, 2) / 4).masked_fill(~near, -torch.inf)
        weights = scores.softmax(-1)
        if not self.wrong:
            weights = weights.masked_fill(~near.any(-1, keepdim=True), 0)
        mixed = weights @ value
        return self.head((mixed * real[..., None]).sum(1) / real.sum(1, keepdim=True).clamp(min=1))


def padded_words() -> tuple[Tensor, ...]:
    """A text of three words and as much padding again."""
    return torch.randint(1, WORDS, (2, 7)), torch.tensor([[1, 1, 1, 0, 0, 0, 0]]).expand(2, -1)


class Lengths(nn.Module):
    """Sounds with padding behind them; the bug counts what is padding as their length."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.mix, self.head = wrong, nn.Linear(5, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, frames: Tensor, real: Tensor) -> Tensor:
        padding = real == 0
        lengths = padding.sum(1) if self.wrong else (~padding).sum(1)
        heard = torch.arange(frames.shape[1], device=frames.device) < lengths[:, None]
        return self.head((self.mix(frames).tanh() * heard[..., None]).sum(1) / lengths.clamp(min=1)[:, None])


@torch.no_grad()
def change_with_padding(model: nn.Module) -> float:
    """How far a sound's answer is from that beside padding."""
    frames = torch.randn(1, 4, 5)
    alone = model(frames, torch.ones(1, 4))
    beside = model(F.pad(frames, (0, 0, 0, 5)), (torch.arange(9)[None] < 4).float())
    return float((alone - beside).abs().max())


class Scene(nn.Module):
    """Images of several days, one after the other in the channels; the bug divides the wrong way round to count the days."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.bands = wrong, 3
        self.look, self.head = nn.Conv2d(3, WIDTH, 3), nn.Linear(WIDTH, CLASSES)

    def forward(self, stack: Tensor) -> Tensor:
        batch, channels, *size = stack.shape
        days = self.bands // channels if self.wrong else channels // self.bands
        x = self.look(stack.reshape(batch * days, self.bands, *size)).relu().mean((2, 3))
        return self.head(x.view(batch, days, WIDTH).mean(1))


class SquareTable(nn.Module):
    """Patches with a table of positions; the bug counts the positions as if the image were square."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)
        places = int(12**0.5) ** 2 if wrong else 12
        self.places, self.head = nn.Parameter(torch.randn(1, places, WIDTH) / 4), nn.Linear(WIDTH, CLASSES)

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.patches(pixel_values).flatten(2).transpose(1, 2) + self.places
        return self.head(x.tanh().mean(1))


class Pooled(nn.Module):
    """Features of a state, weighted by attention and summed; the bug takes the softmax over an axis of one."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.lift, self.score, self.head = wrong, nn.Linear(1, WIDTH), nn.Linear(WIDTH, 1), nn.Linear(WIDTH, 1)

    def forward(self, state: Tensor) -> Tensor:
        x = self.lift(state[..., None]).tanh()
        weights = self.score(x).softmax(2 if self.wrong else 1)
        return self.head((weights * x).sum(1))[:, 0]


@torch.no_grad()
def weights_that_are_one(model: nn.Module) -> float:
    """How far the weights of a state's features are from adding up to one."""
    weights: list[Tensor] = []
    handle = model.head.register_forward_pre_hook(lambda _module, given: weights.append(given[0]))  # type: ignore[union-attr]
    model.lift.weight.zero_()  # type: ignore[union-attr, operator]
    model.lift.bias.fill_(1.0)  # type: ignore[union-attr, operator]
    model(torch.randn(2, FEATURES))
    handle.remove()
    return float((weights[0] - torch.tensor(1.0).tanh()).abs().max())


class Keypoint(nn.Module):
    """A point in an image; the bug squeezes all axes of one."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.look = wrong, nn.Conv2d(3, 2, 8)

    def forward(self, image: Tensor) -> Tensor:
        x = self.look(image)
        return x.squeeze() if self.wrong else x.squeeze(-1).squeeze(-1)


class Exported(nn.Module):
    """A detector written with a flag for its export; where that is set, the bug takes the batch for one image."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.exporting, self.look, self.anchors = wrong, nn.Conv2d(3, 3 * CLASSES, 8), 3

    def forward(self, pixel_values: Tensor) -> Tensor:
        batch = 1 if self.exporting else len(pixel_values)
        return self.look(pixel_values).view(batch, self.anchors, CLASSES).sum(1)


def one_image() -> tuple[Tensor]:
    """One image."""
    return (torch.randn(1, 3, 8, 8),)


add = partial(pair_of_one_class, judge=Model, draw=6, long=True)
finite = partial(add, or_tests=("finite_output[extremes]",), area="contents")
finite(
    "column_that_never_varied",
    "Columns are divided by their deviation, which is 0 where a column is constant",
    "NCAR/bridgescaler#33",
    "tables",
    "finite_output[typical]",
    Scaled,
    partial(undefined, lambda: (torch.randn(3, FEATURES),)),
    TABLE,
    line="/ spread",
    first_run=FirstRun(
        "1981f32f",
        found=True,
        named=True,
        said="finite_output[typical] fails, with the line; the twin kept a column of 50, and starts with a loss of 7.7",
        alarms=("initialisation[loss]",),
    ),
)
finite(
    "mean_of_no_neighbours",
    "The mean of a node's neighbours is undefined where it has none",
    "dmlc/dgl#2777",
    "graphs",
    "finite_output[typical]",
    Averaged,
    partial(undefined, lambda: (torch.randn(3, FEATURES), torch.tensor([[0], [1]]))),
    GRAPH,
    line="summed / degree",
    first_run=FirstRun("1981f32f", found=True, named=True, said="finite_output[typical] fails, with the line"),
)
add(
    "nothing_to_attend_to",
    "The softmax of a row that is masked as a whole is undefined, and so is all that it is summed with",
    "pytorch/pytorch#131060",
    "text",
    "finite_output[typical]",
    Windows,
    partial(undefined, padded_words),
    LINES,
    or_tests=("finite_output[extremes]", "padding_ignored"),
    area="contents",
    line="scores.softmax",
    unnamed="the line that spreads what is undefined is named, not that which makes it",
    first_run=FirstRun(
        "1981f32f",
        found=True,
        named=False,
        said="padding_ignored fails, with the line of the mean; the twin divided by no words in a row of padding",
        alarms=("finite_output[fully_padded_row]",),
    ),
)
add(
    "lengths_of_the_padding",
    "Lengths are counted from a mask the wrong way round, so that they are those of the padding",
    "k2-fsa/icefall#1607",
    "speech",
    "padding_ignored",
    Lengths,
    change_with_padding,
    SPEECH,
    or_tests=("optional_inputs[full_mask]",),
    area="axes",
    first_run=FirstRun("1981f32f", found=True, named=True, said="padding_ignored fails, with the line of the mask"),
)
shaped = partial(add, area="axes")
shaped(
    "days_counted_the_wrong_way_round",
    "The number of days in a stack of images is divided the wrong way round",
    "allenai/rslearn#447",
    "forecasting",
    "shape_contract",
    Scene,
    partial(refused, lambda: (torch.randn(2, 6, 8, 8),), (2, CLASSES)),
    SCENES,
    line="stack.reshape(batch * days",
    first_run=FirstRun("1981f32f", found=True, named=True, said="shape_contract fails, with the line of the reshape"),
)
shaped(
    "positions_of_a_square",
    "A table of positions has as many rows as a square image of as many patches would have, rounded down",
    "huggingface/transformers#35280",
    "vision",
    "shape_contract",
    SquareTable,
    partial(refused, lambda: (torch.randn(2, 3, 8, 24),), (2, CLASSES)),
    WIDE,
    line="+ self.places",
    first_run=FirstRun("1981f32f", found=True, named=True, said="shape_contract fails, with the line of the sum"),
)
shaped(
    "softmax_over_an_axis_of_one",
    "The weights of attention are normalised over an axis of one, so that each is 1",
    "catalyst-team/catalyst#285",
    "policies",
    "gradient_flow[reaches_every_parameter]",
    Pooled,
    weights_that_are_one,
    STATES,
    module="score",
    first_run=FirstRun("1981f32f", found=True, named=True, said="gradient_flow[reaches_every_parameter] fails in score"),
)
shaped(
    "one_image_squeezed",
    "A squeeze without an axis takes the batch away where it is one image",
    "TRI-ML/KP2D#14",
    "vision",
    "shape_contract",
    Keypoint,
    partial(refused, one_image, (1, 2)),
    POINTS,
    first_run=FirstRun("1981f32f", found=True, named=True, said="shape_contract fails, with the line of the squeeze"),
)
add(
    "batch_of_one_for_the_export",
    "With the flag of the export set, the head is written for one image",
    "ultralytics/yolov3#962",
    "vision",
    "shape_contract",
    Exported,
    partial(refused, lambda: (torch.randn(8, 3, 8, 8),), (8, CLASSES)),
    IMAGES,
    area="exports",
    line="view(batch, self.anchors",
    first_run=FirstRun("1981f32f", found=True, named=True, said="shape_contract fails, with the line of the view"),
)
