"""The sizes that large models are judged at."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from harness.adapters import make_adapter
from harness.batches import Sizes
from harness.evidence import Status
from harness.properties import reach
from harness.properties.subject import Subject
from harness.tasks import TaskSpec, TaskType
from pytest_modeltiers.live import judge_model
from pytest_modeltiers.strategies import largest_cheap_sizes, largest_padding, largest_sizes, typical_then_largest

LM = TaskSpec(TaskType.CAUSAL_LM, vocab_size=20, max_seq_len=64, pad_token_id=0)
PER_POSITION = 2 * 16 * 20


class Language(nn.Module):
    """A model whose call takes ``PER_POSITION`` operations a position."""

    calls: ClassVar[list[tuple[int, ...]]] = []

    def __init__(self, step: int = 0) -> None:
        super().__init__()
        self.embedding, self.head, self.step = nn.Embedding(20, 16), nn.Linear(16, 20), step

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        self.calls.append(tuple(input_ids.shape))
        return self.head(self.embedding(input_ids.roll(self.step, 1)))


def made_large(patch: pytest.MonkeyPatch, drawn: int, largest: int) -> None:
    """Has calls of more than so many positions count as dear."""
    patch.setattr(Subject, "is_large", True)
    patch.setattr(reach, "_DRAWN", drawn * PER_POSITION)
    patch.setattr(reach, "_LARGEST", largest * PER_POSITION)


def subject() -> Subject:
    torch.manual_seed(0)
    return Subject(Language().eval(), make_adapter(LM), LM)


def test_a_small_model_is_judged_at_five_rows_of_full_length() -> None:
    small = subject()
    assert small.reach.work == 0
    assert largest_sizes(small) == largest_cheap_sizes(small) == {"sizes": Sizes(5, 64, 64)}
    assert (Sizes(5, 64, 64), 1) in small.reach.anchors


@pytest.mark.parametrize(("positions", "expected"), [(400, (5, 64)), (200, (3, 64)), (128, (2, 64)), (100, (2, 50)), (5, (2, 6))])
def test_a_large_one_has_fewer_rows_and_then_shorter_ones(
    positions: int, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    made_large(monkeypatch, 40, positions)
    large = subject()
    assert large.reach.work == PER_POSITION
    for found in (largest_sizes(large)["sizes"], largest_padding(large)["sizes"], typical_then_largest(large)["calls"][1]):
        assert (found.batch, found.seq) == expected
    assert largest_cheap_sizes(large) == {"sizes": Sizes(2, 20, 20)}


@pytest.mark.parametrize("step", [0, -1], ids=["sound", "leaks"])
def test_what_is_drawn_for_a_large_one_is_cheap_and_a_leak_is_found(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made_large(monkeypatch, 40, 128)
    Language.calls.clear()
    found = judge_model(lambda: Language(step), LM, only=["causal"])["causal"]
    assert found.status is (Status.FAIL if step else Status.OK)
    assert sum(length == 64 for _, length in Language.calls) <= 4  # an anchor and the corner
