"""Half precision: sound models are left alone, and decisions that rounding flips are no finding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from planted_bugs.tasks import CAUSAL, CLASSES, FEATURES, TABLE
from planted_bugs.tester import SEEDS, red
from planted_bugs.tier2.analysed import judge_all, study_of
from planted_bugs.tier2.parts import Attention, Decoder, by_hand, by_kernel
from planted_bugs.tier2.precision import Difference, Norm, Table
from torch import Tensor, nn

from harness.charts.pictures import layers_of
from harness.evidence import Status

FAMILY = ("half_precision",)


@pytest.mark.parametrize("mix", [by_hand, by_kernel])
@pytest.mark.parametrize("seed", SEEDS)
def test_sound_models_are_left_alone(mix: Callable[..., Tensor], seed: int) -> None:
    study = study_of(lambda: Decoder(*(Attention(mix) for _ in range(6))), CAUSAL, seed)
    assert red(judge_all(study, FAMILY)) == {}


class Routed(nn.Module):
    """Each row goes to two of four experts, whose scores are close to each other."""

    def __init__(self, spread: float) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, 32)
        self.gate = nn.Linear(32, 4)
        self.experts = nn.Linear(32, 4 * CLASSES)
        with torch.no_grad():
            self.gate.weight.mul_(spread)
            self.gate.bias.fill_(1.0)

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.first(features)
        kept = self.gate(hidden).topk(2, -1).indices
        outputs = self.experts(hidden).unflatten(-1, (4, CLASSES))
        return outputs.gather(1, kept[..., None].expand(-1, -1, CLASSES)).sum(1)


@pytest.mark.parametrize(
    "seeds", [range(8, 12), pytest.param((*range(8), *range(12, 20)), marks=pytest.mark.long)], ids=["few", "more"]
)
def test_a_decision_that_rounding_flips_is_no_finding_and_said(seeds: Sequence[int]) -> None:
    said = set()
    for spread in (0.01, 0.1, 0.2):
        for seed in seeds:
            found = judge_all(study_of(partial(Routed, spread), TABLE, seed), FAMILY)
            assert red(found) == {}
            said |= {each.message for each in found.values() if each.status is Status.SKIPPED}
    assert any("flips a decision" in message for message in said)


def test_a_model_in_half_precision_is_not_compared_with_itself() -> None:
    found = judge_all(study_of(lambda: Table(partial(Norm, 1e-5)).bfloat16(), TABLE), FAMILY)
    assert {each.status for each in found.values()} == {Status.SKIPPED}
    assert "the model is already in bfloat16" in found["half_precision[float16]"].message


def test_the_layers_show_where_the_precisions_part() -> None:
    found = judge_all(study_of(partial(Table, partial(Difference, 500.0)), TABLE), FAMILY)["half_precision[bfloat16]"]
    assert found.status is Status.FAIL
    (chart,) = layers_of(found.details)
    shares = {bar.label: bar.lengths[0] or 0.0 for bar in chart.bars}
    assert chart.caption == "bfloat16 against full precision, as a share of the largest value that a module returns"
    assert max(shares.values()) == 1.0
    assert shares["inner"] > 0.1
