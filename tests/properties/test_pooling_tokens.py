"""Text encoders that pool where a special token stands: random text rarely shows that they read every position."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from harness.adapters import make_adapter
from harness.evidence import Status
from harness.properties.dependence import depends_on_tokens
from harness.properties.initialisation import signal_scale
from harness.properties.subject import Subject
from harness.tasks import TaskSpec, TaskType

LENGTH, END = 12, 7


class Pooled(nn.Module):
    """A causal encoder with a mask as a buffer, pooled at one position a row."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, 16)
        self.places = nn.Parameter(torch.randn(LENGTH, 16) * 0.1)
        self.attend = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 3)
        self.register_buffer("mask", torch.full((LENGTH, LENGTH), -torch.inf).triu(1))
        self.config = SimpleNamespace(eos_token_id=END)

    def place(self, input_ids: Tensor) -> Tensor:
        """Position to pool at, `[B]`."""
        raise NotImplementedError

    def forward(self, input_ids: Tensor) -> Tensor:
        length = input_ids.shape[1]
        x = self.embed(input_ids) + self.places[:length]
        x = x + self.attend(x, x, x, attn_mask=self.mask[:length, :length].to(x), need_weights=False)[0]
        return self.head(x[torch.arange(len(x)), self.place(input_ids)])


class AtLargestId(Pooled):
    def place(self, input_ids: Tensor) -> Tensor:
        return input_ids.argmax(-1)


class AtEndToken(Pooled):
    def place(self, input_ids: Tensor) -> Tensor:
        return (input_ids == END).int().argmax(-1)


class AtFirst(Pooled):
    def place(self, input_ids: Tensor) -> Tensor:
        return torch.zeros(len(input_ids), dtype=torch.long)


def subject_of(kind: type[Pooled], vocab: int) -> Subject:
    task = TaskSpec(TaskType.SEQUENCE_CLASSIFICATION, vocab_size=vocab, max_seq_len=LENGTH, num_classes=3)
    torch.manual_seed(0)
    model = kind(vocab).eval()
    return Subject(model, make_adapter(task), task, pristine=model)


@pytest.mark.parametrize("vocab", [40, 500])
@pytest.mark.parametrize("kind", [AtLargestId, AtEndToken])
def test_a_model_that_pools_at_a_special_token_reads_every_position(kind: type[Pooled], vocab: int) -> None:
    found = depends_on_tokens(subject_of(kind, vocab))

    assert found.status is Status.OK, found.message


@pytest.mark.parametrize("vocab", [40, 500])
def test_a_causal_model_that_pools_at_the_first_token_does_not(vocab: int) -> None:
    found = depends_on_tokens(subject_of(AtFirst, vocab))

    assert found.status is Status.FAIL
    assert found.details["ignored"] == [f"token {position}" for position in range(1, 11)]


def test_an_infinite_mask_is_no_broken_weight() -> None:
    subject = subject_of(AtLargestId, 40)
    assert signal_scale(subject).status is Status.OK

    with torch.no_grad():
        subject.model.head.bias[0] = torch.inf
    assert signal_scale(subject).module == "head.bias"
