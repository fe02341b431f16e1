"""Tier 2 has nothing to say against the embedded stubs."""

from __future__ import annotations

import pytest
from planted_bugs.tasks import CAUSAL, IMAGES, NUMBER, SEQ2SEQ, TABLE, TEXT, VOCAB
from planted_bugs.tester import red
from planted_bugs.tier2.analysed import judge_all, study_of
from torch import Tensor, nn

from harness.catalogue import CATALOGUE
from harness.evidence import Status
from harness.models.stubs import build_stub
from harness.tasks import TaskSpec, TaskType

MASKED = TaskSpec(TaskType.MASKED_LM, vocab_size=VOCAB, max_seq_len=12, pad_token_id=0)
TAGGING = TaskSpec(TaskType.TOKEN_CLASSIFICATION, vocab_size=VOCAB, max_seq_len=12, pad_token_id=0, num_classes=4)
TASKS = (CAUSAL, MASKED, TEXT, TAGGING, SEQ2SEQ, IMAGES, TABLE, NUMBER)
JUDGED = tuple(name for name, entry in CATALOGUE.items() if entry.tier == 2 and name != "compiled")
"""All but the slowest, which has stubs of its own."""


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.task_type.value)
def test_stub_is_sound(task: TaskSpec) -> None:
    assert red(judge_all(study_of(lambda: build_stub(task), task), JUDGED)) == {}


class Infinite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features) / 0


def test_a_model_in_trouble_is_left_to_tier_1() -> None:
    found = judge_all(study_of(Infinite, TABLE), JUDGED)
    assert {each.status for each in found.values()} == {Status.FAIL}, "tier 1 does not run here"
    assert all(each.message.endswith("(see finite_output[typical])") for each in found.values())
