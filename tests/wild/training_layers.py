"""Reported bugs of layers: noise in eval mode, parts that are not registered, weights that begin at zero and stay there."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.evidence import Status
from tests.planted_bugs.setups import Model

from .register import FirstRun, pair_of_one_class, task_of

WIDTH, CLASSES = 12, 4
FIELDS = task_of(
    inputs={"fields": {"axes": ["batch", 3], "values": {"ids": [9, 6, 5]}}},
    outputs={"click": {"axes": ["batch"], "kind": "binary_scores"}},
)
PICTURES = task_of(
    inputs={"image": {"axes": ["batch", 1, 8, 8]}}, outputs={"found": {"axes": ["batch", 1, 8, 8], "kind": "values"}}
)
SOUNDS = task_of(
    inputs={"sound": {"axes": ["batch", 1, 64]}}, outputs={"scores": {"axes": ["batch", CLASSES], "kind": "class_scores"}}
)
REFERRED = task_of(
    inputs={"image": {"axes": ["batch", 8, 16]}, "words": {"axes": ["batch", 4, 16]}},
    outputs={"mask": {"axes": ["batch", 8], "kind": "binary_scores"}},
)
TABLE = task_of(task_type="tabular_regression", num_features=6)


class Interaction(nn.Module):
    """Products of the embeddings of two fields each, weighted; the bug drops some of them in eval mode too."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong, self.enter, self.score = wrong, nn.Linear(WIDTH, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        product = torch.stack([x[:, 0] * x[:, 1], x[:, 0] * x[:, 2], x[:, 1] * x[:, 2]], 1)
        weights = self.score(self.enter(product).relu()).softmax(1)
        weights = F.dropout(weights, p=0.2) if self.wrong else F.dropout(weights, p=0.2, training=self.training)
        return (weights * product).sum(1)


class Machine(nn.Module):
    """A factorisation machine with such an attention."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.embed = nn.ModuleList(nn.Embedding(size, WIDTH) for size in (9, 6, 5))
        self.interaction, self.head = Interaction(wrong), nn.Linear(WIDTH, 1)

    def forward(self, fields: Tensor) -> Tensor:
        x = torch.stack([embed(fields[:, column]) for column, embed in enumerate(self.embed)], 1)
        return self.head(self.interaction(x))[:, 0]


def change_in_eval_mode(model: nn.Module) -> float:
    """How far two calls in eval mode are apart."""
    fields = torch.zeros(16, 3, dtype=torch.long)
    with torch.no_grad():
        return float((model.eval()(fields) - model(fields)).abs().max())


class Variational(nn.Module):
    """An autoencoder that answers by the mean of its latent; the bug answers by the mean and one deviation."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.encode, self.decode = nn.Linear(64, 2 * WIDTH), nn.Linear(WIDTH, 64)

    def latent(self, mean: Tensor, spread: Tensor) -> Tensor:
        deviation = (0.5 * spread.clamp(-10, 10)).exp()
        if self.training:
            deviation = torch.randn_like(deviation) * deviation
        elif not self.wrong:
            return mean
        return mean + deviation

    def forward(self, image: Tensor) -> Tensor:
        return self.decode(self.latent(*self.encode(image.flatten(1)).chunk(2, -1)).tanh()).view_as(image)


def apart_from_the_mean(model: Any) -> float:
    """How far the latent of eval mode is from its mean."""
    mean, spread = torch.randn(2, 3, WIDTH)
    return float((model.eval().latent(mean, spread) - mean).abs().max())


class Octaves(nn.Module):
    """A bank of filters, an octave each; the bug keeps them in a list that no parameter of is known."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        filters = [nn.Conv1d(1, 4, 8 * 2**octave, stride=8, padding=4 * 2**octave) for octave in range(3)]
        self.filters: Any = filters if wrong else nn.ModuleList(filters)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, sound: Tensor) -> Tensor:
        return self.head(torch.cat([each(sound).abs().mean(-1) for each in self.filters], 1))


def unknown_filters(model: Any) -> float:
    """How many filters are not among the parameters of the model."""
    known = {id(each) for each in model.parameters()}
    return float(sum(id(each.weight) not in known for each in model.filters))


class Gated(nn.Module):
    """Words that an image refers to, let in by a gate that begins shut; the bug sets both of its layers to zero, and it stays shut."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.fuse, self.head = nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, 1)
        self.gate = nn.Sequential(nn.Linear(16, 16, bias=False), nn.ReLU(), nn.Linear(16, 16, bias=False), nn.Tanh())
        nn.init.zeros_(self.gate[2].weight)
        if wrong:
            nn.init.zeros_(self.gate[0].weight)

    def forward(self, image: Tensor, words: Tensor) -> Tensor:
        told = self.fuse(image, words, words, need_weights=False)[0]
        return self.head(image + self.gate(told) * told)[..., 0]


def gate_that_stays_shut(model: Any) -> float:
    """Whether a hundred steps leave the gate shut."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    image, words, wanted = torch.randn(4, 8, 16), torch.randn(4, 4, 16), torch.randn(4, 8)
    for _ in range(100):
        optimizer.zero_grad()
        (model(image, words) - wanted).square().mean().backward()
        optimizer.step()
    return float(not model.gate[2].weight.any())


class Dense(nn.Module):
    """A linear layer by hand; the bug never fills the memory of its weights, most of which is zero."""

    def __init__(self, into: int, out: int, wrong: bool) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(out, into)), nn.Parameter(torch.zeros(out))
        if not wrong:
            nn.init.kaiming_uniform_(self.weight, a=5**0.5)
            nn.init.uniform_(self.bias, -(into**-0.5), into**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Estimator(nn.Module):
    """A perceptron of such layers."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.first, self.second = Dense(6, WIDTH, wrong), Dense(WIDTH, 1, wrong)

    def forward(self, features: Tensor) -> Tensor:
        return self.second(self.first(features).relu())[:, 0]


def unlearnt_weights(model: Any) -> float:
    """Whether a hundred steps leave the weights of the first layer at zero."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    features, wanted = torch.randn(8, 6), torch.randn(8)
    for _ in range(100):
        optimizer.zero_grad()
        (model(features) - wanted).square().mean().backward()
        optimizer.step()
    return float(not model.first.weight.any())


add = partial(pair_of_one_class, judge=Model, draw=3, long=True)
add(
    "dropout_without_the_mode",
    "A dropout that is called as a function is not told the mode, and drops in eval mode too",
    "rixwew/pytorch-fm#21",
    "recommenders",
    "eval_deterministic",
    Machine,
    change_in_eval_mode,
    FIELDS,
    area="train_mode",
    module="interaction",
    first_run=FirstRun("039188d", found=True, named=True, said="eval_deterministic fails in interaction, with its line"),
)
add(
    "mean_and_one_deviation",
    "In eval mode the latent is the mean and one deviation, instead of the mean that training scatters around",
    "Project-MONAI/MONAI#8933",
    "vision",
    "train_mode[equals_eval]",
    Variational,
    apart_from_the_mean,
    PICTURES,
    area="train_mode",
    module="(model)",
    status=Status.WARN,
    first_run=FirstRun(
        "039188d",
        found=False,
        named=False,
        said="skipped: in train mode forward draws random numbers that belong to no layer; the twin took the exponential of an unbounded number",
        alarms=("gradient_flow[finite]",),
    ),
)
add(
    "filters_in_a_list",
    "The filters of the octaves are kept in a list, so that none of them is a part of the model",
    "kymatio/murenn#42",
    "speech",
    "registration",
    Octaves,
    unknown_filters,
    SOUNDS,
    area="state",
    module="filters",
    first_run=FirstRun(
        "039188d", found=True, named=False, said="registration fails in filters[0], where the pair expected the model itself"
    ),
)
add(
    "gate_that_stays_shut",
    "Both layers of a gate begin at zero, so that neither has a gradient and it stays shut",
    "yz93/LAVT-RIS#25",
    "vision",
    "gradient_flow[reaches_every_parameter]",
    Gated,
    gate_that_stays_shut,
    REFERRED,
    area="start",
    or_tests=("initialisation[symmetry]",),
    module="gate",
    first_run=FirstRun("039188d", found=True, named=True, said="initialisation[symmetry] fails in gate.0.weight"),
)
add(
    "weights_never_filled",
    "The weights of a layer by hand are never initialised, and are zero almost everywhere",
    "mattiasegu/uncertainty_estimation_deep_learning#7",
    "tables",
    "initialisation[symmetry]",
    Estimator,
    unlearnt_weights,
    TABLE,
    area="start",
    or_tests=("initialisation[scale]", "gradient_flow[reaches_every_parameter]"),
    module="first",
    first_run=FirstRun("039188d", found=True, named=True, said="initialisation[symmetry] fails in first.weight"),
)
