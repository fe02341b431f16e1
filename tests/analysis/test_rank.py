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

from harness.tasks import TaskSpec

FAMILY = ("representation_rank",)


SOUND: dict[str, tuple[Factory, TaskSpec]] = {
    "deep residual": (partial(Stack, 60, True), TABLE),
    "zero-initialised": (ZeroHead, CAUSAL),
    "encoder": (lambda: Encoder(Attention()), TEXT),
}


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("seed", SEEDS)
def test_sound_models_are_left_alone(name: str, seed: int) -> None:
    factory, task = SOUND[name]
    assert red(judge_all(study_of(factory, task, seed), FAMILY)) == {}


def test_the_effective_rank_of_every_layer_is_told() -> None:
    layers = judge_all(study_of(partial(Bottleneck, 2), TABLE), FAMILY)["representation_rank"].details["layers"]
    ranks = {layer["module"]: layer["effective_rank"] for layer in layers}
    assert 1 < ranks["down"] <= 2
    assert set(ranks) == {"down", "up", "head", "(model)"}
