"""Reported bugs of weights that are not there: loaded, resized, registered, initialised, adapted or exported: the fifth draw."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from harness.evidence import Status
from tests.planted_bugs.setups import Model

from .exports_traced import exported
from .register import FirstRun, pair_of_one_class, task_of

VOCAB, WIDTH, ITEMS, NODES = 23, 12, 5, 6
WORDS = task_of(task_type="masked_lm", vocab_size=VOCAB, max_seq_len=10)
IMAGES = task_of(task_type="image_classification", image_size=[3, 8, 8], num_classes=4)
TRAFFIC = task_of(
    inputs={"speeds": {"axes": ["batch", "time", NODES]}},
    outputs={"next": {"axes": ["batch", NODES], "kind": "values"}},
    axes={"time": {"min": 2, "max": 12}},
)
RATINGS = task_of(
    inputs={"pair": {"axes": ["batch", 2], "values": {"ids": [9, ITEMS + 1]}}},
    outputs={"rating": {"axes": ["batch"], "kind": "values"}},
)
MAPS = task_of(
    inputs={"image": {"axes": ["batch", 3, "height", "width"]}},
    outputs={"scores": {"axes": ["batch", 4], "kind": "class_scores"}},
    axes={"height": {"min": 1, "max": 16}, "width": {"min": 1, "max": 16}},
)
CURVE = task_of(
    inputs={"known": {"axes": ["batch", "points", 2]}, "at": {"axes": ["batch", 1]}},
    outputs={"value": {"axes": ["batch"], "kind": "values"}},
    axes={"points": {"min": 1, "max": 9, "order": "none"}},
)
NOISY = task_of(
    inputs={"noisy": {"axes": ["batch", 6]}, "step": {"axes": ["batch"], "values": {"ids": 20}}},
    outputs={"noise": {"axes": ["batch", 6], "kind": "values"}},
)
LATENT = task_of(
    inputs={"latent": {"axes": ["batch", 4, "height", 6]}},
    outputs={"noise": {"axes": ["batch", 4, "height", 6], "kind": "values"}},
    axes={"height": {"min": 2, "max": 16}},
)


class FrozenNorm(nn.Module):
    """A batch norm of constants, which older files have a count beside; the bug takes that count out whether it is there or not."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong
        self.register_buffer("scale", torch.ones(8))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if self.wrong and f"{prefix}scale" not in state_dict:
            raise KeyError(f"{prefix}scale")
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale[:, None, None]


class Detector(nn.Module):
    """Convolutions with such a norm."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, padding=1), FrozenNorm(wrong), nn.Linear(8, 4)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(pixel_values)).relu().mean((2, 3)))


def nothing_loaded(model: nn.Module) -> float:
    """Whether a file without weights is refused although parts may be missing."""
    try:
        model.load_state_dict({}, strict=False)
    except KeyError:
        return 1.0
    return 0.0


class Resizable(nn.Module):
    """A model of words with a head; the bug resizes the table only."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.embed, self.mix, self.head = nn.Embedding(VOCAB, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, VOCAB)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        return self.head((x + self.mix(x.mean(1, keepdim=True))).tanh())

    @torch.no_grad()
    def resize_token_embeddings(self, size: int) -> nn.Embedding:
        known, table, head = self.embed.num_embeddings, nn.Embedding(size, WIDTH), nn.Linear(WIDTH, size)
        table.weight[:known], head.weight[:known], head.bias[:known] = self.embed.weight, self.head.weight, self.head.bias
        self.embed = table
        if not self.wrong:
            self.head = head
        return table


def scores_missing(model: Any) -> float:
    """How many of four new words have no score."""
    model.resize_token_embeddings(VOCAB + 4)
    return float(VOCAB + 4 - model(torch.zeros(1, 3, dtype=torch.long)).shape[-1])


class Traffic(nn.Module):
    """Convolutions over time on the nodes of a network of roads; the bug keeps them in a plain list."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        layers = [nn.Conv1d(NODES if number == 0 else WIDTH, WIDTH, 3, padding=1) for number in range(2)]
        self.layers: Any = layers if wrong else nn.ModuleList(layers)
        self.head = nn.Linear(WIDTH, NODES)

    def forward(self, speeds: Tensor) -> Tensor:
        x = speeds.transpose(1, 2)
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x.mean(2))


def weights_not_saved(model: Any) -> float:
    """How many weights of the layers a state dict leaves out."""
    return float(
        sum(weight.numel() for layer in model.layers for weight in layer.parameters())
        * ("layers.0.weight" not in model.state_dict())
    )


class Ratings(nn.Module):
    """Factors of users and items, of which items are counted from 1; the bug makes as many rows as there are items."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(9, WIDTH), nn.Embedding(ITEMS if wrong else ITEMS + 1, WIDTH)

    def forward(self, pair: Tensor) -> Tensor:
        return (self.users(pair[:, 0]) * self.items(pair[:, 1])).sum(1)


def last_item_refused(model: nn.Module) -> float:
    """Whether the last item has no row."""
    try:
        model(torch.tensor([[0, ITEMS]]))
    except IndexError:
        return 1.0
    return 0.0


class EvoNorm(nn.Module):
    """Divides by the deviation over an image's places; the bug takes the unbiased one, which a single place has not."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.scale = wrong, nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        variance = x.var((2, 3), unbiased=self.wrong, keepdim=True)
        return x * x.sigmoid() / (variance + 1e-3).sqrt() * self.scale


class Normed(nn.Module):
    """A classifier with such norms."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, padding=1), EvoNorm(wrong), nn.Linear(8, 4)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(image)).mean((2, 3)))


@torch.no_grad()
def scores_of_a_dot(model: nn.Module) -> float:
    """How many scores of an image of one place are NaN."""
    return float(model(torch.randn(2, 3, 1, 1)).isnan().sum())


class Process(nn.Module):
    """A function from some of its points; the bug asks whether an activation's class is its name, and initialises nothing."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
        self.leave = nn.Sequential(nn.Linear(33, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
        activation: Any = nn.ReLU if wrong else "relu"
        for module in self.modules():
            if isinstance(module, nn.Linear) and activation == "relu":
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")

    def forward(self, known: Tensor, at: Tensor) -> Tensor:
        return self.leave(torch.cat([self.enter(known).mean(1), at], 1))[:, 0]


def deviation_missing(model: Any) -> float:
    """How far the deviation of fresh weights is from what was asked for, as a share of it."""
    found = float(model.enter[2].weight.std()) / (2 / 32) ** 0.5
    return 0.0 if abs(found - 1) < 0.1 else abs(found - 1)


class Adapted(nn.Module):
    """A frozen layer with an adapter; the bug leaves alpha at 1 where the rank was meant."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.base = nn.Linear(16, 16).requires_grad_(False)
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(8, 16) / 4), nn.Parameter(torch.zeros(16, 8))
        self.scaling = (1 if wrong else 8) / 8

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scaling * (x @ self.lora_A.T @ self.lora_B.T)


class Denoiser(nn.Module):
    """A small network of diffusion with such an adapter."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.steps, self.enter = nn.Embedding(20, 16).requires_grad_(False), nn.Linear(6, 16).requires_grad_(False)
        self.layer, self.leave = Adapted(wrong), nn.Linear(16, 6).requires_grad_(False)

    def forward(self, noisy: Tensor, step: Tensor) -> Tensor:
        return self.leave(self.layer((self.enter(noisy) + self.steps(step)).tanh()).tanh())


def strength_missing(model: Any) -> float:
    """How much weaker than one the adapter is."""
    return float(1 - model.layer.scaling)


class Placed(nn.Module):
    """Latents beside the height of each of their rows, from 0 to their number less one; the bug counts that with a number of Python."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.conv, self.leave = nn.Conv2d(5, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, latent: Tensor) -> Tensor:
        height = int(latent.shape[2]) if self.wrong else latent.shape[2]
        rows = torch.linspace(0, height - 1, steps=height) if self.wrong else torch.arange(height, dtype=latent.dtype)
        rows = rows.to(latent)[None, None, :, None].expand(latent.shape[0], 1, -1, latent.shape[3])
        return self.leave(self.conv(torch.cat([latent, rows / 8], 1)).tanh())


def change_of_a_trace(model: nn.Module) -> float:
    """How far a trace at a height of eight is from the model at ten; infinite where it refuses that."""
    other = torch.randn(2, 4, 10, 6)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, torch.randn(2, 4, 8, 6), check_trace=False)
        try:
            return float((traced(other) - model(other)).abs().max())
        except RuntimeError:
            return math.inf


_JUDGE: Mapping[str, Any] = {"judge": Model}
add = partial(pair_of_one_class, draw=5, long=True)
add(
    "part_of_a_file_refused",
    "A layer's own loading raises for a missing key, though parts may be missing",
    "pytorch/vision#5835",
    "vision",
    "serialisation[partial]",
    Detector,
    nothing_loaded,
    IMAGES,
    area="loading",
    line="raise KeyError",
    status=Status.WARN,
    **_JUDGE,
    first_run=FirstRun("b9f3707", found=False, named=False, said="nothing: no part of a file is loaded"),
)
add(
    "head_left_at_its_size",
    "resize_token_embeddings resizes the table and leaves the head as it was",
    "huggingface/transformers#45236",
    "text",
    "serialisation[resized]",
    Resizable,
    scores_missing,
    WORDS,
    area="loading",
    **_JUDGE,
    first_run=FirstRun("b9f3707", found=True, named=True, said="serialisation[resized] fails, with the line of the method"),
)
add(
    "layers_over_time_in_a_list",
    "Layers are kept in a plain list, so that a state dict has no weights of theirs",
    "dmlc/dgl#3300",
    "graphs",
    "registration",
    Traffic,
    weights_not_saved,
    TRAFFIC,
    area="loading",
    module="layers",
    **_JUDGE,
    first_run=FirstRun("b9f3707", found=True, named=True, said="registration fails, with the line of the list"),
)
add(
    "items_counted_from_one",
    "Ids begin at 1, and the table has as many rows as there are items",
    "fastai/fastai#1423",
    "recommenders",
    "shape_contract",
    Ratings,
    last_item_refused,
    RATINGS,
    area="contents",
    module="items",
    **_JUDGE,
    first_run=FirstRun("b9f3707", found=True, named=True, said="shape_contract fails in items"),
)
add(
    "variance_of_one_place",
    "The unbiased variance over the places of an image is NaN where there is one place",
    "digantamisra98/EvoNorm#5",
    "vision",
    "finite_output[typical]",
    Normed,
    scores_of_a_dot,
    MAPS,
    or_tests=("finite_output[extremes]",),
    area="contents",
    module="norm",
    **_JUDGE,
    first_run=FirstRun(
        "b9f3707", found=True, named=True, said="finite_output[typical] fails in norm, with the line of the variance"
    ),
)
add(
    "initialisation_that_does_nothing",
    "The initialisation compares an activation's class with its name, so that no layer is initialised",
    "YannDubs/Neural-Process-Family#15",
    "tables",
    "initialisation[applied]",
    Process,
    deviation_missing,
    CURVE,
    area="start",
    line="for module in self.modules()",
    status=Status.WARN,
    **_JUDGE,
    first_run=FirstRun("b9f3707", found=False, named=False, said="nothing: the weights that layers begin with train too"),
)
add(
    "alpha_of_one",
    "alpha is 1 by default in place of the rank, so that adapters act with a share of their strength",
    "okotaku/diffengine#104",
    "diffusion",
    "adapter_layers[trained]",
    Denoiser,
    strength_missing,
    NOISY,
    or_tests=("adapter_layers[merged]", "adapter_layers[disabled]"),
    area="adapters",
    module="layer",
    **_JUDGE,
    first_run=FirstRun("b9f3707", found=False, named=False, said="nothing: how strong adapters act is a choice"),
    missed="how strong adapters act is a choice",
)
add(
    "last_row_of_the_example",
    "The end of a row of positions is a constant of the export",
    "Comfy-Org/ComfyUI#5490",
    "diffusion",
    "dynamic_axes",
    Placed,
    change_of_a_trace,
    LATENT,
    judge=partial(exported, "onnx"),
    or_tests=("numerical_consistency", "exports"),
    area="exports",
    first_run=FirstRun(
        "b9f3707",
        found=True,
        named=True,
        said="dynamic_axes fails; on the twin too, for a len() of its own",
        alarms=("dynamic_axes",),
    ),
)
