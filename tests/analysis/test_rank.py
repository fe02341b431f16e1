"""Sound models keep their rank, and the rank of every layer is told."""

from __future__ import annotations

from functools import partial

import pytest
from planted_bugs.setups import Factory
from planted_bugs.tasks import CAUSAL, TABLE, TEXT
from planted_bugs.tester import SEEDS, red
from planted_bugs.tier2.analysed import judge_all, study_of
from planted_bugs.tier2.parts import Attention, Encoder
from planted_bugs.tier2.rank import Bottleneck, Stack, ZeroHead
from torch import Tensor, nn

from harness.evidence import Status
from harness.tasks import TaskSpec

FAMILY = ("representation_rank",)


class WithInputs(nn.Module):
    """A layer that returns, beside its output, its inputs repeated for every unit, as layers of pykan do for plots."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(x).tanh(), x[:, None].expand(-1, self.linear.out_features, -1)


class Plotted(nn.Module):
    """Two such layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = WithInputs(TABLE.num_features or 1, 8), WithInputs(8, TABLE.num_classes or 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.last(self.first(features)[0])[0]


SOUND: dict[str, tuple[Factory, TaskSpec]] = {
    "deep residual": (partial(Stack, 60, True), TABLE),
    "zero-initialised": (ZeroHead, CAUSAL),
    "inputs beside outputs": (Plotted, TABLE),
    "encoder": (lambda: Encoder(Attention()), TEXT),
}


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("seed", SEEDS)
def test_sound_models_are_left_alone(name: str, seed: int) -> None:
    factory, task = SOUND[name]
    found = judge_all(study_of(factory, task, seed), FAMILY)
    assert red(found) == {}
    assert found["representation_rank"].status is not Status.WARN


def test_the_effective_rank_of_every_layer_is_told() -> None:
    layers = judge_all(study_of(partial(Bottleneck, 2), TABLE), FAMILY)["representation_rank"].details["layers"]
    ranks = {layer["module"]: layer["effective_rank"] for layer in layers}
    assert 1 < ranks["down"] <= 2
    assert set(ranks) == {"down", "up", "head", "(model)"}
