"""Blocks that are alike but for their weights, and a model in which all but two of them pass on what they are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.models.repeated import rows_of_alike, shorten


class Block(nn.Module):
    """Knows its number, as those of transformers do."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.scale = number, 0.5
        self.layer = nn.Linear(4, 4)
        self.register_buffer("mask", torch.ones(4))

    def forward(self, hidden: Tensor, scale: float = 1.0) -> tuple[Tensor, None]:
        return hidden + scale * self.layer(hidden) * self.mask, None


class Stack(nn.Module):
    """Eight blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(number) for number in range(8))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, scale=2.0)[0]
        return x


class SkipsAhead(Stack):
    """Gives each block the input too."""

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for block in self.blocks:
            y = block(y + x)[0]
        return y


def fill(module: nn.Module) -> None:
    with torch.no_grad():
        module.layer.bias.zero_()


CHANGES: dict[str, Callable[[Any], object]] = {
    "an attribute": lambda block: setattr(block, "scale", 0.25),
    "another number": lambda block: setattr(block, "number", 17),
    "a buffer": lambda block: block.mask[0].zero_(),
    "a weight that is constant": fill,
    "a frozen weight": lambda block: block.layer.weight.requires_grad_(False),
    "a part of another class": lambda block: setattr(block, "layer", nn.Sequential(nn.Linear(4, 4))),
    "a forward of its own": lambda block: setattr(
        block, "forward", lambda hidden, scale=1.0: (hidden.mean(0, keepdim=True), None)
    ),
    "a hook": lambda block: block.register_forward_hook(lambda _module, _given, output: output),
}


def test_of_blocks_that_are_alike_two_are_kept() -> None:
    (row,) = rows_of_alike(Stack())
    assert (row.path, row.kept) == ("blocks", ("0", "1"))
    assert row.describe() == "2 of 8 blocks of `blocks`, the others are like them"


@pytest.mark.parametrize("change", CHANGES)
def test_a_block_that_is_unlike_the_others_is_kept(change: str) -> None:
    model = Stack()
    CHANGES[change](model.blocks[5])
    (row,) = rows_of_alike(model)
    assert row.kept == ("0", "1", "5")


def test_the_others_pass_on_what_they_are_given() -> None:
    model, x = Stack(), torch.randn(2, 4)
    rows = rows_of_alike(model)
    expected = model.blocks[1](model.blocks[0](x, scale=2.0)[0], scale=2.0)[0]
    assert shorten(model, rows, lambda: model(x)) == rows
    assert torch.equal(model(x), expected)
    assert {name.split(".")[1] for name, _ in model.named_parameters()} == {"0", "1"}


def test_blocks_that_are_given_more_than_the_one_before_returned_stay() -> None:
    model, x = SkipsAhead(), torch.randn(2, 4)
    expected = model(x)
    assert shorten(model, rows_of_alike(model), lambda: model(x)) == []
    assert torch.equal(model(x), expected)
