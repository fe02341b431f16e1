"""gradcheck leaves sound models alone, kinks and rounding included."""

from __future__ import annotations

import inspect
from functools import partial

import pytest
from planted_bugs.setups import Factory
from planted_bugs.tasks import CAUSAL, IMAGES, TABLE
from planted_bugs.tester import SEEDS, red
from planted_bugs.tier2.analysed import judge_all, study_of
from planted_bugs.tier2.gradients import Norm, Pictures, Renormalised, Sensitive, Swish, Table, Upcast, table
from torch import Tensor, nn

from harness.evidence import Status
from harness.tasks import TaskSpec

FAMILY = ("gradcheck",)


SOUND: dict[str, tuple[Factory, TaskSpec]] = {
    "kinks": (Pictures, IMAGES),
    "float32 inside": (partial(table, Upcast), TABLE),
    "sensitive": (partial(table, Sensitive), TABLE),
    "max_norm": (Renormalised, CAUSAL),
    "spectral norm": (lambda: Table(nn.utils.parametrizations.spectral_norm(nn.Linear(32, 32))), TABLE),
}


def test_a_detach_is_named_by_its_line() -> None:
    found = judge_all(study_of(partial(table, Norm, True), TABLE), FAMILY)["gradcheck"]

    line = inspect.getsource(Norm).splitlines()
    number = inspect.getsourcelines(Norm)[1] + next(n for n, text in enumerate(line) if ".detach()" in text)
    assert (found.code, found.place.rpartition(":")[2]) == ("detached", str(number))


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("seed", SEEDS)
def test_sound_models_are_left_alone(name: str, seed: int) -> None:
    factory, task = SOUND[name]
    assert red(judge_all(study_of(factory, task, seed), FAMILY)) == {}


class Gated(nn.Module):
    """Adds an activation of a projection, whose backward pass may forget a term."""

    def __init__(self, is_wrong: bool) -> None:
        super().__init__()
        self.layer, self.activation = nn.Linear(32, 32), Swish(is_wrong)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.activation(self.layer(hidden))


class Stacked(nn.Module):
    """Hands its input from block to block."""

    def __init__(self, wrong: int | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Gated(number == wrong) for number in range(6))

    def forward(self, hidden: Tensor) -> Tensor:
        for block in self.blocks:
            hidden = block(hidden)
        return hidden


@pytest.mark.parametrize("name", ["gradcheck", "compiled"])
def test_of_a_large_model_two_blocks_of_each_kind_are_asked(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("harness.runtime._LARGE", 1)
    study = study_of(partial(table, Stacked), TABLE)
    study.seconds = 30.0
    found = judge_all(study, (name,))[name]
    assert (found.status, found.details["blocks"]) == (
        Status.OK,
        "2 of 6 blocks of `inner.blocks`, the others are like them",
    )


def test_in_a_large_model_the_block_with_a_wrong_gradient_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.runtime._LARGE", 1)
    found = judge_all(study_of(partial(table, Stacked, 4), TABLE), FAMILY)["gradcheck"]
    assert (found.status, found.code) == (Status.FAIL, "wrong_gradient")
    assert found.module.startswith("inner.blocks.4")
