"""A row of an embedding that is padding has no gradient by design; where it is read, that is no wrong gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.evidence import Status
from harness.tasks import TaskSpec, TaskType
from pytest_modeltiers.live import judge_model

TASK = TaskSpec(TaskType.SEQUENCE_CLASSIFICATION, vocab_size=7, max_seq_len=9, num_classes=3)


class Bag(nn.Module):
    """The last id is padding, of which the task knows nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 6, padding_idx=6), nn.Linear(6, 3)
        nn.init.normal_(self.embed.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self.embed(x).mean(1)))

    def hidden(self, x: Tensor) -> Tensor:
        return x.tanh()


class WrongSlope(torch.autograd.Function):
    """tanh with a backward that is 10% too steep."""

    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx, slope):  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        return 1.1 * slope * (1 - x.tanh() ** 2)


class BagWithAWrongGradient(Bag):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(6, 6)

    def hidden(self, x: Tensor) -> Tensor:
        return WrongSlope.apply(self.mix(x))


def test_a_padding_row_that_is_read_is_no_wrong_gradient() -> None:
    finding = judge_model(Bag, TASK, only=["gradcheck"], tiers=(2,))["gradcheck"]
    assert finding.status is Status.OK, finding.explain()


def test_a_wrong_gradient_elsewhere_is_found_all_the_same() -> None:
    finding = judge_model(BagWithAWrongGradient, TASK, only=["gradcheck"], tiers=(2,))["gradcheck"]
    assert finding.status is Status.FAIL
