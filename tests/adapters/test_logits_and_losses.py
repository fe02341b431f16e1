"""Logits are found in whatever a model returns, and losses are what one computes by hand."""

from __future__ import annotations

import math
from collections import OrderedDict, namedtuple
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.adapters import ADAPTERS, find_logits, make_adapter, same_shape
from harness.errors import OutputError
from harness.tasks import FACTS, TaskSpec, TaskType

LOGITS = torch.arange(6.0).reshape(2, 3)
Output = namedtuple("Output", ["hidden", "logits"])


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        (LOGITS, torch.zeros(1)),
        [LOGITS],
        {"logits": LOGITS, "loss": torch.zeros(())},
        OrderedDict(loss=torch.zeros(()), logits=LOGITS),
        SimpleNamespace(logits=LOGITS),
        Output(hidden=torch.zeros(1), logits=LOGITS),
    ],
    ids=["tensor", "tuple", "list", "dict", "ordered_dict", "object", "named_tuple"],
)
def test_logits_are_found_in(output: Any) -> None:
    assert find_logits(output) is LOGITS


@pytest.mark.parametrize(
    ("output", "has"),
    [
        ({"scores": LOGITS, "loss": LOGITS}, "`scores`, `loss`"),
        (None, "NoneType"),
        ((), "tuple"),
        (("logits", LOGITS), "tuple"),
        (SimpleNamespace(scores=LOGITS), "SimpleNamespace"),
        ({"logits": [1.0]}, "`logits`"),
    ],
)
def test_an_output_without_logits_is_described(output: Any, has: str) -> None:
    with pytest.raises(OutputError) as caught:
        find_logits(output)

    assert has in str(caught.value)
    assert "`logits`" in str(caught.value), "what to return instead"
    assert "\n" not in str(caught.value)


def test_integers_are_no_logits() -> None:
    assert same_shape(torch.zeros(2, 3), (2, 3))
    assert not same_shape(torch.zeros(2, 3, dtype=torch.long), (2, 3))
    assert not same_shape(torch.zeros(3, 2), (2, 3))


@pytest.mark.parametrize(("shape", "squeezed"), [((4, 1), (4,)), ((4,), (4,)), ((1, 1), (1,)), ((4, 2), (4, 2))])
def test_a_regressions_last_axis_of_one_is_dropped(shape: tuple[int, ...], squeezed: tuple[int, ...]) -> None:
    class Model(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            return torch.zeros(shape)

    adapter = make_adapter(TaskSpec(TaskType.TABULAR_REGRESSION, num_features=3))

    assert adapter.logits(Model(), {"features": torch.zeros(shape[0], 3)}).shape == squeezed


def nats(logits: list[float], label: int) -> float:
    """The cross-entropy of one row."""
    return math.log(sum(math.exp(value) for value in logits)) - logits[label]


ROWS = [[0.0, 1.0, 2.0], [1.0, -1.0, 0.5], [0.0, 0.0, 0.0]]


def test_a_classifiers_loss_is_the_mean_over_rows() -> None:
    adapter = make_adapter(TaskSpec(TaskType.IMAGE_CLASSIFICATION, image_size=(1, 2, 2), num_classes=3))
    loss = adapter.loss(torch.tensor(ROWS), {"labels": torch.tensor([2, 0, 1])})

    assert loss.item() == pytest.approx((nats(ROWS[0], 2) + nats(ROWS[1], 0) + math.log(3)) / 3)


def test_ignored_labels_leave_the_mean() -> None:
    adapter = make_adapter(TaskSpec(TaskType.TOKEN_CLASSIFICATION, vocab_size=9, max_seq_len=3, num_classes=3))
    loss = adapter.loss(torch.tensor([ROWS]), {"labels": torch.tensor([[2, -100, 1]])})

    assert loss.item() == pytest.approx((nats(ROWS[0], 2) + math.log(3)) / 2)


def test_a_causal_models_logits_are_held_to_the_next_token() -> None:
    adapter = make_adapter(TaskSpec(TaskType.CAUSAL_LM, vocab_size=3, max_seq_len=3))
    loss = adapter.loss(torch.tensor([ROWS]), {"labels": torch.tensor([[0, 1, 2]])})

    assert loss.item() == pytest.approx((nats(ROWS[0], 1) + nats(ROWS[1], 2)) / 2)


def test_a_causal_models_ignored_labels_leave_the_mean() -> None:
    adapter = make_adapter(TaskSpec(TaskType.CAUSAL_LM, vocab_size=3, max_seq_len=3))
    loss = adapter.loss(torch.tensor([ROWS, ROWS]), {"labels": torch.tensor([[0, 1, -100], [-100, -100, 2]])})

    assert loss.item() == pytest.approx((nats(ROWS[0], 1) + nats(ROWS[1], 2)) / 2)


@pytest.mark.parametrize("task_type", [TaskType.MASKED_LM, TaskType.SEQ2SEQ_LM])
def test_other_language_models_are_held_to_the_token_itself(task_type: TaskType) -> None:
    adapter = make_adapter(TaskSpec(task_type, vocab_size=3, max_seq_len=3))
    loss = adapter.loss(torch.tensor([ROWS]), {"labels": torch.tensor([[0, 1, -100]])})

    assert loss.item() == pytest.approx((nats(ROWS[0], 0) + nats(ROWS[1], 1)) / 2)


def test_a_regressions_loss_is_the_mean_squared_error() -> None:
    adapter = make_adapter(TaskSpec(TaskType.TABULAR_REGRESSION, num_features=3))

    assert adapter.loss(torch.tensor([1.0, 3.0]), {"labels": torch.tensor([0.0, 1.0])}).item() == pytest.approx((1 + 4) / 2)


def test_a_loss_has_a_gradient() -> None:
    adapter = make_adapter(TaskSpec(TaskType.CAUSAL_LM, vocab_size=3, max_seq_len=3))
    logits = torch.tensor([ROWS], requires_grad=True)
    adapter.loss(logits, {"labels": torch.tensor([[0, 1, 2]])}).backward()

    assert logits.grad is not None
    assert logits.grad[0, :2].abs().sum() > 0
    assert logits.grad[0, 2].abs().sum() == 0, "the last position predicts nothing"


def test_there_is_an_adapter_for_every_task_type() -> None:
    assert set(ADAPTERS) == {task.value for task in FACTS}
