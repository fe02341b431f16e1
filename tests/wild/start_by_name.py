"""Reported bugs of how weights begin, of blocks that are computed again, and of adapters: the sixth draw."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from harness.evidence import Status
from tests.planted_bugs.setups import Model

from .register import FirstRun, pair_of_one_class, task_of

WIDTH, WORDS, CLASSES, TOWERS = 16, 23, 4, 2
IMAGES = task_of(task_type="image_classification", image_size=[3, 8, 8], num_classes=CLASSES)
WORD = task_of(
    inputs={"word": {"axes": ["batch"], "values": {"ids": WORDS}}},
    outputs={"next": {"axes": ["batch", WORDS], "kind": "class_scores"}},
)
CHOICES = task_of(
    inputs={"item": {"axes": ["batch"], "values": {"ids": WORDS}}},
    outputs={"click": {"axes": ["batch", TOWERS], "kind": "binary_scores"}},
)


class Fused(nn.Module):
    """Towers that share a table of embeddings of several models; the bug sets the padding row of the wrong axis to zero."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.table, self.heads = nn.Parameter(torch.randn(TOWERS, WORDS, WIDTH) / 4), nn.Parameter(torch.randn(TOWERS, WIDTH) / 4)
        with torch.no_grad():
            if wrong:
                self.table[0].zero_()
            else:
                self.table[:, 0].zero_()

    def forward(self, item: Tensor) -> Tensor:
        return (self.table[:, item] * self.heads[:, None]).sum(-1).T


def items_without_numbers(model: nn.Module) -> float:
    """How many items of a table beside the padding begin with zeros only, as a share."""
    return float((model.table[:, 1:] == 0).all(-1).float().mean())  # type: ignore[index]


class Tower(nn.Module):
    """Blocks that are computed again in the backward pass, the first of them frozen; the bug asks the first one for all."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.use_checkpoint = wrong, False
        self.enter = nn.Linear(192, WIDTH).requires_grad_(False)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(3))
        self.blocks[0].requires_grad_(False)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.enter(pixel_values.flatten(1))
        for block in self.blocks:
            if self.use_checkpoint and self.training:
                asked = self.blocks[0] if self.wrong else block
                if any(p.requires_grad for p in asked.parameters()) and torch.is_grad_enabled() and not x.requires_grad:
                    x = x.detach().requires_grad_()
                x = checkpoint(block, x, use_reentrant=True)
            else:
                x = block(x)
        return self.head(x)


def gradient_that_is_lost(model: Any) -> float:
    """How far the gradient of the second block is from what it is without checkpointing, relative to that."""
    image, found = torch.randn(4, 3, 8, 8), []
    for model.use_checkpoint in (False, True):
        model.train().zero_grad()
        model(image).square().mean().backward()
        grad = model.blocks[1][0].weight.grad
        found.append(torch.zeros_like(model.blocks[1][0].weight) if grad is None else grad.clone())
    return float((found[0] - found[1]).norm() / found[0].norm())


class Wrapper(nn.Module):
    """A block that is computed again in the backward pass."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.wrapped = block

    def forward(self, x: Tensor) -> Tensor:
        return self.wrapped(x)


class Named(nn.Module):
    """Weights that are initialised by their names; the bug does not know the name that a wrapper puts between."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WORDS)
        self.blocks = nn.ModuleList(Wrapper(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())) for _ in range(3))
        for name, parameter in self.named_parameters():
            plain = name if wrong else name.replace("wrapped.", "")
            if re.fullmatch(r"blocks\.\d+\.0\.weight", plain):
                nn.init.normal_(parameter, std=0.02)

    def forward(self, word: Tensor) -> Tensor:
        x = self.words(word)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def deviation_of_blocks(model: nn.Module) -> float:
    """How far the deviation of a block's weights is from what was asked for."""
    return max(0.0, float(model.blocks[0].wrapped[0].weight.std()) / 0.02 - 1.5)  # type: ignore[index, union-attr]


class Joined(nn.Module):
    """A layer with two adapters and their sum as a third; the bug scales the sum as if it were an adapter of its rank."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.wrong, self.merged, self.base = wrong, False, nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.lora_A = nn.ParameterList(torch.randn(4, WIDTH) / 4 for _ in range(2))
        self.lora_B = nn.ParameterList(torch.randn(WIDTH, 4) / 4 for _ in range(2))
        self.alpha, self.rank = 4, 4

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) if self.merged else self.base(x) + x @ self.joined().T

    def joined(self) -> Tensor:
        scale = self.alpha / self.rank**0.5
        whole = sum(scale * b @ a for a, b in zip(self.lora_A, self.lora_B, strict=True)) / 2
        return whole * (self.alpha / self.rank**0.5 if self.wrong else 1.0)

    def merge_lora(self) -> None:
        self.base.weight.data += self.joined().data
        self.merged = True

    def unmerge_lora(self) -> None:
        self.base.weight.data -= self.joined().data
        self.merged = False


class Writer(nn.Module):
    """A model of words with such a layer."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.words, self.layer = nn.Embedding(WORDS, WIDTH).requires_grad_(False), Joined(wrong)
        self.head = nn.Linear(WIDTH, WORDS).requires_grad_(False)

    def forward(self, word: Tensor) -> Tensor:
        return self.head(self.layer(self.words(word)).tanh())


@torch.no_grad()
def strength_of_the_sum(model: nn.Module) -> float:
    """How far the sum of two adapters is from their mean, relative to that."""
    layer: Joined = model.layer  # type: ignore[assignment]
    parts = [layer.alpha / layer.rank**0.5 * b @ a for a, b in zip(layer.lora_A, layer.lora_B, strict=True)]
    wanted = sum(parts) / 2
    return float((layer.joined() - wanted).norm() / wanted.norm())


class Seeing(nn.Module):
    """An encoder that is to stay as it is and a head with an adapter; the bug puts an adapter into the encoder as well."""

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(192, WIDTH).requires_grad_(False), nn.Linear(WIDTH, CLASSES).requires_grad_(False)
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(4, WIDTH) / 4), nn.Parameter(torch.zeros(CLASSES, 4))
        self.merged = False
        if wrong:
            self.encoder_lora_A, self.encoder_lora_B = nn.Parameter(torch.randn(4, 192) / 14), nn.Parameter(torch.zeros(WIDTH, 4))

    def forward(self, pixel_values: Tensor) -> Tensor:
        image = pixel_values.flatten(1)
        x = self.encoder(image)
        if hasattr(self, "encoder_lora_A"):
            x = x + image @ self.encoder_lora_A.T @ self.encoder_lora_B.T
        x = x.tanh()
        return self.head(x) if self.merged else self.head(x) + x @ self.lora_A.T @ self.lora_B.T

    def merge_lora(self) -> None:
        self.head.weight.data += (self.lora_B @ self.lora_A).data
        self.merged = True

    def unmerge_lora(self) -> None:
        self.head.weight.data -= (self.lora_B @ self.lora_A).data
        self.merged = False


def trained_in_the_encoder(model: nn.Module) -> float:
    """How many parameters of the encoder are trained."""
    return float(sum(p.requires_grad for name, p in model.named_parameters() if name.startswith("encoder")))


add = partial(pair_of_one_class, judge=Model, draw=6, long=True)
add(
    "padding_row_of_another_axis",
    "In a table of several models the row of padding is set to zero along the axis of the models",
    "S-Lab-System-Group/Hydro#1",
    "recommenders",
    "initialisation[symmetry]",
    Fused,
    items_without_numbers,
    CHOICES,
    area="start",
    first_run=FirstRun("1981f32f", found=False, named=False, said="nothing: rows that start equal have gradients of their own"),
    missed="rows that start equal have gradients of their own, and move apart",
)
add(
    "names_behind_a_wrapper",
    "Weights are initialised by their names, which a wrapper changes, so that none is",
    "Modalities/modalities#460",
    "text",
    "initialisation[applied]",
    Named,
    deviation_of_blocks,
    WORD,
    area="start",
    line="in self.named_parameters()",
    status=Status.WARN,
    first_run=FirstRun(
        "1981f32f",
        found=False,
        named=False,
        said="nothing but input_dependence[context], of the twin as well: a text was declared, and each word is read by itself",
        alarms=("input_dependence[context]",),
    ),
)
add(
    "sum_of_adapters_scaled_again",
    "The sum of adapters, whose scales are in it already, is scaled once more",
    "huggingface/peft#3473",
    "text",
    "adapter_layers[merged]",
    Writer,
    strength_of_the_sum,
    WORD,
    area="adapters",
    module="layer",
    first_run=FirstRun(
        "1981f32f",
        found=False,
        named=False,
        said="nothing but input_dependence[context], of the twin as well: a text was declared, and each word is read by itself",
        alarms=("input_dependence[context]",),
    ),
    missed="how strong adapters act is a choice",
)
add(
    "adapter_in_what_stays_as_it_is",
    "Adapters are put into an encoder that is to stay as it is",
    "zjysteven/lmms-finetune#11",
    "vision",
    "adapter_layers[trained]",
    Seeing,
    trained_in_the_encoder,
    IMAGES,
    area="adapters",
    first_run=FirstRun("1981f32f", found=False, named=False, said="nothing: which layers have adapters is a choice"),
    missed="which layers have adapters is a choice",
)
add(
    "all_blocks_asked_by_the_first",
    "Whether inputs of checkpointed blocks need a gradient is asked of the first block, which is frozen",
    "modelscope/ms-swift#10142",
    "vision",
    "train_mode[checkpointing]",
    Tower,
    gradient_that_is_lost,
    IMAGES,
    area="train_mode",
    module="blocks.1",
    first_run=FirstRun("1981f32f", found=True, named=True, said="train_mode[checkpointing] fails in blocks.1.0"),
)
