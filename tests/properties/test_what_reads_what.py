"""Pictures of a failure: which output reads which input, and where two calls part along the layers; none where all is sound."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from harness.evidence import Status
from harness.properties import reading
from harness.tasks import TaskSpec, TaskType
from pytest_modeltiers.live import judge_model

TEXT = TaskSpec(TaskType.CAUSAL_LM, vocab_size=50, max_seq_len=16)
CLASSES = TaskSpec(TaskType.SEQUENCE_CLASSIFICATION, vocab_size=50, max_seq_len=16, num_classes=3, pad_token_id=0)
TABLE = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=5, num_classes=3)

NUMBERS = TaskSpec(TaskType.TABULAR_REGRESSION, num_features=5)


class Text(nn.Module):
    """A model of tokens whose mixing over time is given.

    Args:
        shift: How far positions read ahead; 0 for a sound model.
    """

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.shift, self.read, self.mix, self.say = shift, nn.Embedding(50, 8), nn.Linear(8, 8), nn.Linear(8, 50)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        read = self.read(input_ids)
        return self.say(self.mix(read.cumsum(1) + (read.roll(-self.shift, 1) if self.shift else 0)))


class Rows(nn.Module):
    def __init__(self, mixed: bool) -> None:
        super().__init__()
        self.mixed, self.first, self.last = mixed, nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        hidden = self.first(features)
        return self.last(hidden - hidden.roll(1, 0) / 2 if self.mixed else hidden)


class Pooled(nn.Module):
    def __init__(self, masked: bool) -> None:
        super().__init__()
        self.masked, self.read, self.say = masked, nn.Embedding(50, 8), nn.Linear(8, 3)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        read, weights = self.read(input_ids), attention_mask.unsqueeze(-1).float()
        return self.say((read * weights).sum(1) / weights.sum(1) if self.masked else read.mean(1))


class Numbers(Rows):
    """One number for a row: an output without further axes."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return super().forward(features).sum(-1)


def plots(build: Any, task: TaskSpec, test: str) -> list[dict[str, Any]]:
    found = judge_model(build, task, only=[test.partition("[")[0]])[test]
    assert found.status is Status.FAIL
    return list(found.details.get("plots", []))


def wrong(matrix: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (output, place)
        for output, reads, bad in zip(matrix["outputs"], matrix["reads"], matrix["forbidden"], strict=True)
        for place, read, forbidden in zip(matrix["inputs"], reads, bad, strict=True)
        if read and forbidden
    ]


def test_a_leak_is_seen_beside_the_diagonal_and_from_the_layer_on_that_mixes() -> None:
    matrix, layers = plots(lambda: Text(1), TEXT, "causal")
    places = len(matrix["inputs"])
    assert wrong(matrix) == [(f"position {row}", f"token {row + 1}") for row in range(places - 1)]
    assert [row[:2] for row in matrix["reads"][:2]] == [[True, True], [True, True]]
    assert layers["labels"] == ["read", "mix", "say", "(model)"]
    assert layers["values"][0] == 0
    assert min(layers["values"][1:]) > 0.01


@pytest.mark.parametrize(("model", "task"), [(Rows, TABLE), (Numbers, NUMBERS)])
def test_rows_that_read_their_neighbour(model: type[Rows], task: TaskSpec) -> None:
    matrix, layers = plots(lambda: model(True), task, "batch_independence[forward]")
    rows = len(matrix["inputs"])
    assert wrong(matrix) == sorted((f"row {row} of the output", f"row {(row - 1) % rows}") for row in range(rows))
    assert dict(zip(layers["labels"], layers["values"], strict=True))["first"] == 0


def test_padding_that_is_read_by_an_output_without_positions() -> None:
    matrix, _ = plots(lambda: Pooled(False), CLASSES, "padding_ignored")
    assert matrix["outputs"] == ["the output"]
    assert {place for _, place in wrong(matrix)} == {place for place in matrix["inputs"] if place.startswith("padding")}
    assert wrong(matrix)


@pytest.mark.parametrize(
    ("build", "task", "test"),
    [
        (lambda: Text(0), TEXT, "causal"),
        (lambda: Rows(False), TABLE, "batch_independence[forward]"),
        (lambda: Pooled(True), CLASSES, "padding_ignored"),
    ],
)
def test_nothing_is_drawn_of_a_sound_model(build: Any, task: TaskSpec, test: str) -> None:
    found = judge_model(build, task, only=[test.partition("[")[0]])[test]
    assert (found.status, "plots" in found.details) == (Status.OK, False)


def test_an_error_of_a_picture_is_told_and_the_finding_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise ZeroDivisionError("in a picture")

    monkeypatch.setattr(reading, "_plots", fails)
    monkeypatch.setattr(reading, "is_internal", lambda _: True)
    found = judge_model(lambda: Text(1), TEXT, only=["causal"])["causal"]
    assert found.status is Status.FAIL
    assert found.message.startswith(
        "position 0's logits change when token 1 changes: the causal mask leaks; it could not be drawn: "
    )
