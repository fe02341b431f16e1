"""A table whose columns are ids is told that real numbers are drawn for it, and an adapter makes it one that can be judged."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.adapters import Adapter
from harness.batches import Batch
from harness.evidence import Status
from harness.tasks import TaskSpec, TaskType
from harness.tasks.declared import read_signature
from pytest_modeltiers.live import judge_model

TABLE = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=4, num_classes=3)


class Fields(nn.Module):
    """Looks each column up."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(20, 5) for _ in range(4))
        self.head = nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        columns = [table(column) for table, column in zip(self.tables, x.long().unbind(1), strict=True)]
        return self.head(torch.cat(columns, 1).tanh())


class NoTables(nn.Module):
    """Raises at an index that is no look-up of features."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)[:, [0, 1, 7]]


class AsIds(Adapter):
    """Real numbers as ids."""

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        return model(batch["features"].abs().mul(100).long() % 20)


def test_real_numbers_for_ids_are_the_cause_that_is_named() -> None:
    finding = judge_model(Fields, TABLE, only=["shape_contract"])["shape_contract"]
    assert finding.status is Status.FAIL
    assert finding.cause.startswith("features that are ids of an embedding")


def test_another_index_is_not() -> None:
    finding = judge_model(NoTables, TABLE, only=["shape_contract"])["shape_contract"]
    assert finding.status is Status.FAIL
    assert not finding.cause.startswith("features that are ids of an embedding")


def test_an_adapter_makes_ids_of_them() -> None:
    quick = ("shape_contract", "finite_output", "batch_independence", "eval_deterministic", "input_dependence")
    findings = judge_model(Fields, TABLE, adapter=AsIds(TABLE), only=quick, share=0.2)
    assert not [finding.explain() for finding in findings.values() if finding.status is Status.FAIL]


class Matches(nn.Module):
    """Each image with each text: the texts are no rows of the images' batch."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(5, 8), nn.Embedding(20, 8)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        return self.image(image) @ self.text(text).mean(1).T


def test_ids_of_something_else_than_rows_have_no_rows() -> None:
    keys = {
        "inputs": {"image": {"axes": ["batch", 5]}, "text": {"axes": ["texts", 4], "values": {"ids": 20}}},
        "outputs": {"logits": {"axes": ["batch", "texts"]}},
    }
    task = TaskSpec(TaskType.DECLARED, declared=read_signature(keys))
    found = judge_model(Matches, task, only=("batch_independence",))
    assert {name: each.status for name, each in found.items()} == dict.fromkeys(found, Status.OK)
