"""Sound attention is the same by every kernel; a model without attention is skipped."""

from __future__ import annotations

from functools import partial

import pytest
from planted_bugs.tasks import TABLE, TEXT
from planted_bugs.tester import SEEDS, red
from planted_bugs.tier2.analysed import judge_all, study_of
from planted_bugs.tier2.kernels import OfTorch, Table
from torch import nn

from harness.evidence import Status

FAMILY = ("attention_kernels",)


@pytest.mark.parametrize("seed", SEEDS)
def test_sound_models_are_left_alone(seed: int) -> None:
    assert red(judge_all(study_of(partial(OfTorch, nn.TransformerEncoderLayer), TEXT, seed), FAMILY)) == {}


def test_a_model_without_attention_is_skipped() -> None:
    found = judge_all(study_of(Table, TABLE), FAMILY)["attention_kernels"]
    assert found.status is Status.SKIPPED
    assert "does not use PyTorch's attention" in found.message
