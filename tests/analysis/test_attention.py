"""Attention weights are those that are used; unusual attention is left alone."""

from __future__ import annotations

import pytest
import torch
from planted_bugs.tasks import CAUSAL, IMAGES
from planted_bugs.tester import red
from planted_bugs.tier2.analysed import judge_all, study_of
from planted_bugs.tier2.attention import ROWS, by_einsum, decoder, patches, values_first, with_gates, with_mixed_heads, with_sink
from planted_bugs.tier2.parts import Mix, by_hand, by_kernel
from torch import nn

from harness.analysis.attention_maps import attention_maps
from harness.evidence import Status

FAMILY = ("attention_patterns",)


@pytest.mark.parametrize("mix", [values_first, with_sink, with_mixed_heads, with_gates], ids=lambda mix: mix.__name__)
def test_unusual_but_sound(mix: Mix) -> None:
    found = judge_all(study_of(decoder(mix), CAUSAL), FAMILY)
    assert red(found) == {}
    assert found[ROWS].status is Status.OK


def test_no_attention_is_said() -> None:
    found = judge_all(study_of(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), IMAGES), FAMILY)
    assert {each.status for each in found.values()} == {Status.SKIPPED}
    assert "no attention was found" in found[ROWS].message


@pytest.mark.parametrize("mix", [by_hand, by_kernel, by_einsum, values_first], ids=lambda mix: mix.__name__)
def test_weights_are_those_that_are_used(mix: Mix) -> None:
    study = study_of(patches(mix), IMAGES)
    expected = attention_maps(study.subject, study.subject.batch(), study_of(patches(by_hand), IMAGES).subject.model)
    found = attention_maps(study.subject, study.subject.batch())
    assert [each.module for each in found] == ["attentions.0", "attentions.1"]
    for own, other in zip(found, expected, strict=True):
        assert torch.allclose(own.weights, other.weights, atol=1e-6)
