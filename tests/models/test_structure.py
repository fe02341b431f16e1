"""A model's structure is read without data, and a model that memory does not hold is refused before it is built."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.errors import FactoryError
from harness.models import structure
from harness.models.loading import ModelSource
from harness.models.structure import build_if_it_fits, on_meta, structure_of

MIB = 1 << 20


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(512, 512)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Stack(nn.Module):
    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 512)
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.head = nn.Linear(512, 100, bias=False)
        self.head.weight = self.embedding.weight


def test_the_structure_is_that_of_the_built_model() -> None:
    source = ModelSource(Stack, "stack")
    found = structure_of(on_meta(source))
    assert found == structure_of(source.build())
    assert found.parameters == 100 * 512 + 4 * (512 * 512 + 512)
    assert found.weights == 4 * found.parameters
    assert found.tied == (("embedding.weight", "head.weight"),)
    assert found.blocks == (("Block", 4),)
    assert found.dtypes == ("float32",)


class Counted:
    """A factory that counts what it built."""

    def __init__(self) -> None:
        self.with_data: list[int] = []

    def __call__(self) -> nn.Module:
        model = Stack()
        if not model.head.weight.is_meta:
            self.with_data.append(1)
        return model


def test_a_model_larger_than_memory_is_refused_before_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    factory = Counted()
    monkeypatch.setattr(structure, "free_memory", lambda _device: 3 * MIB)
    with pytest.raises(FactoryError, match=r"the weights take 4 MiB, and 3 MiB of memory are free on cpu; nothing was loaded"):
        build_if_it_fits(ModelSource(factory, "stack"))
    assert not factory.with_data


@pytest.mark.parametrize("free", [0, 5 * MIB, 500 * MIB], ids=["unknown", "just", "plenty"])
def test_a_model_that_fits_is_built_once(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    factory = Counted()
    monkeypatch.setattr(structure, "free_memory", lambda _device: free)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    model = build_if_it_fits(ModelSource(factory, "stack"), seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert factory.with_data == [1]
    expected: Any = ModelSource(Stack, "stack").build(1)
    assert all(map(torch.equal, model.parameters(), expected.parameters()))


def test_a_model_that_needs_data_to_be_built_is_built_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def factory() -> nn.Module:
        widths = [256 * int(step) for step in torch.arange(1, 3)]  # not linspace, which transformers makes on the CPU
        return nn.Sequential(nn.Linear(widths[0], widths[1]), nn.Linear(widths[1], widths[0]))

    monkeypatch.setattr(structure, "free_memory", lambda _device: MIB // 2)
    assert sum(p.numel() for p in build_if_it_fits(ModelSource(factory, "made")).parameters())
