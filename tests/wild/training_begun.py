"""Reported bugs of modes and starts: the seventh draw."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.planted_bugs.setups import Model

from .register import FirstRun, pair_of_one_class, task_of

WIDTH, CLASSES, FIELDS = 16, 4, 8
TABLE = task_of(task_type="tabular_classification", num_features=6, num_classes=CLASSES)
IMAGES = task_of(task_type="image_classification", image_size=[3, 8, 8], num_classes=CLASSES)
CLICKS = task_of(inputs={"fields": {"axes": ["batch", FIELDS]}}, outputs={"click": {"axes": ["batch"], "kind": "binary_scores"}})


class Uncertain(nn.Module):
    """Answers with what dropout spreads; the bug switches layers of dropout on, where dropout is a function."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.enter, self.norm, self.leave = (
            wrong,
            nn.Linear(6, WIDTH),
            nn.BatchNorm1d(WIDTH),
            nn.Linear(WIDTH, CLASSES),
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.leave(F.dropout(self.norm(self.enter(features)).relu(), 0.3, self.training))

    @torch.no_grad()
    def predict(self, features: Tensor) -> tuple[Tensor, Tensor]:
        was = self.training
        self.train(not self.wrong)
        for module in self.modules():
            if self.wrong and isinstance(module, nn.Dropout):
                module.train()
            if isinstance(module, nn.BatchNorm1d):
                module.eval()
        draws = torch.stack([self(features) for _ in range(8)])
        self.train(was)
        return draws.mean(0), draws.std(0)


def certain_of_everything(model: Any) -> float:
    """Whether the spread is zero."""
    return float(model.eval().predict(torch.randn(4, 6))[1].max() == 0)


class Recomputed(nn.Module):
    """Blocks that can be computed again in the backward pass; the bug does so in a way that the first block's input must have a gradient for."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.use_checkpoint = wrong, False
        widths = (6, WIDTH, WIDTH)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, WIDTH), nn.Tanh()) for width in widths)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        for block in self.blocks:
            if self.use_checkpoint and self.training:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    features = checkpoint(block, features, use_reentrant=self.wrong)
            else:
                features = block(features)
        return self.head(features)


def untrained_first_block(model: Any) -> float:
    """Whether the first block has no gradient."""
    model.train().use_checkpoint = True
    model(torch.randn(4, 6)).sum().backward()
    return float(model.blocks[0][0].weight.grad is None)


class Clip(nn.Module):
    """A deep tower; the bug gives weights the factor of the configuration as their deviation, without 0.02."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.deviation = 1.0 if wrong else 0.02
        self.enter, self.head = nn.Linear(192, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH)) for _ in range(4))
        self.apply(self._init_weights)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=self.deviation)
            nn.init.zeros_(module.bias)

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.enter(pixel_values.flatten(1))
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x)


def factor_as_deviation(model: Any) -> float:
    """How far the deviation of weights is above 0.02."""
    return max(0.0, float(model.layers[0][0].weight.detach().std()) - 0.03)


class Machine(nn.Module):
    """A factorisation machine; the bug begins its factors at zero, where the pairs have no gradient."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.linear, self.factors = nn.Linear(FIELDS, 1), nn.Parameter(torch.zeros(FIELDS, 4))
        if not wrong:
            nn.init.normal_(self.factors, std=0.3)

    def forward(self, fields: Tensor) -> Tensor:
        pairs = (fields @ self.factors).square() - fields.square() @ self.factors.square()
        return self.linear(fields)[:, 0] + 0.5 * pairs.sum(1)


def pairs_that_stay_zero(model: Any) -> float:
    """Whether no gradient moves the factors."""
    model(torch.randn(8, FIELDS)).square().sum().backward()
    return float(model.factors.grad.abs().max() == 0)


add = partial(pair_of_one_class, judge=Model, draw=7, long=True)
add(
    "dropout_that_is_no_layer",
    "The spread of answers switches layers of dropout on, and finds none where dropout is a function",
    "lightning-uq-box/lightning-uq-box#173",
    "tables",
    "train_mode[equals_eval]",
    Uncertain,
    certain_of_everything,
    TABLE,
    or_tests=("train_mode[after_eval]",),
    area="train_mode",
    first_run=FirstRun(
        "67ba39c0",
        found=False,
        named=False,
        said="nothing: train_mode[equals_eval] is skipped, as a rate that is a number in the code cannot be set to zero",
    ),
    missed="what a method of the model's own answers is not judged",
)
add(
    "first_block_computed_again",
    "A block that is computed again has no gradient where its input has none",
    "pytorch/pytorch#33962",
    "tables",
    "train_mode[checkpointing]",
    Recomputed,
    untrained_first_block,
    TABLE,
    area="train_mode",
    module="blocks.0",
    first_run=FirstRun("67ba39c0", found=True, named=True, said="train_mode[checkpointing] fails in blocks.0.0"),
)
add(
    "factor_for_a_deviation",
    "Weights are drawn with the factor of the configuration as their deviation, fifty times too large",
    "huggingface/transformers#39772",
    "vision",
    "initialisation[loss]",
    Clip,
    factor_as_deviation,
    IMAGES,
    or_tests=("initialisation[depth]", "initialisation[scale]"),
    area="start",
    line="std=self.deviation",
    first_run=FirstRun("67ba39c0", found=True, named=False, said="initialisation[loss] fails, without a place"),
    unnamed="the scale of several layers together is to blame, and initialisation[loss] names none",
)
add(
    "pairs_that_are_always_zero",
    "The factors of pairs begin at zero, where they have no gradient",
    "winterant/DeepCoNN#1",
    "recommenders",
    "gradient_flow[reaches_every_parameter]",
    Machine,
    pairs_that_stay_zero,
    CLICKS,
    or_tests=("initialisation[symmetry]",),
    area="start",
    module="factors",
    first_run=FirstRun(
        "67ba39c0", found=True, named=False, said="initialisation[symmetry] fails in factors, where the pair expected the model"
    ),
)
