"""A table that forward fills once and keeps is used as it was filled."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.adapters import make_adapter
from harness.evidence import Status
from harness.properties.initialisation import symmetry
from harness.properties.model_variants import calibrated, calibrated_subject
from harness.properties.subject import Subject
from harness.tasks import TaskSpec, TaskType
from pytest_modeltiers.live import judge_model

TABLE = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=4, num_classes=3)


class Cached(nn.Module):
    """Keeps a table, and beside it whether the table is filled, as rotary-embedding-torch does."""

    at_zero = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.register_buffer("table", torch.zeros(3), persistent=False)
        self.is_filled = False

    def forward(self, features: Tensor) -> Tensor:
        if not self.is_filled:
            self.table.copy_(torch.arange(1, 4))
            self.is_filled = True
        return ((features @ self.linear.weight.T) ** 2 + 1 - self.at_zero).sqrt() / self.table + self.linear.bias


class Rooted(Cached):
    """Takes the root of zero where the inputs are zero."""

    at_zero = 1.0


def test_a_cache_is_not_emptied_between_two_looks_at_gradients() -> None:
    found = judge_model(Cached, TABLE, only=("gradient_flow",), share=0.5)
    assert {name: e.explain() for name, e in found.items() if e.status is Status.FAIL} == {}


def test_a_gradient_that_is_infinite_is_found_beside_a_cache() -> None:
    assert judge_model(Rooted, TABLE, only=("gradient_flow",), share=1)["gradient_flow[finite]"].status is Status.FAIL


class KeepsBiases(nn.Module):
    """Looks biases up while it trains, and keeps what it looked up once it does not, with the graph, as LeViT of timm does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 3), nn.BatchNorm1d(3)
        self.biases = nn.Parameter(torch.zeros(2, 3))
        self.kept: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> KeepsBiases:
        self.kept = {}
        return super().train(mode)

    def forward(self, features: Tensor) -> Tensor:
        biases = self.biases[[0, 1]] if self.training else self.kept.setdefault("cpu", self.biases[[0, 1]])
        return self.norm(self.linear(features)) + torch.arange(1.0, 3.0) @ biases


def test_a_model_that_keeps_a_graph_in_eval_mode_can_still_be_copied_and_trained() -> None:
    model = KeepsBiases().eval()
    subject = Subject(model, make_adapter(TABLE), TABLE, pristine=model)
    subject.logits_with_grad(subject.batch(), calibrated(subject)).sum().backward()

    assert symmetry(subject).status is Status.OK
    assert isinstance(calibrated_subject(subject).fresh(), KeepsBiases)
