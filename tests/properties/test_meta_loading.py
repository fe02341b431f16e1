"""Buffers that no state dict holds, of parts that were added to a model of another package."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from harness.adapters import make_adapter
from harness.evidence import Status
from harness.properties.meta_loading import built_on_meta
from harness.properties.subject import Subject
from harness.tasks import TaskSpec, TaskType

TASK = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=4, num_classes=3)


class _Scaled(nn.Module):
    """A buffer that no state dict holds and no method computes again."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.arange(1.0, 5.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class _Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.added = nn.Linear(4, 3), nn.Identity()
        self.register_buffer("shift", torch.arange(4.0), persistent=False)

    def init_weights(self) -> None:
        self.shift.copy_(torch.arange(4.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.added(x + self.shift))


class _Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = _Base()
        self.base.added = _Scaled()

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x)


@pytest.mark.parametrize(("package", "status"), [("adapters", Status.SKIPPED), ("base", Status.FAIL)])
def test_whoever_adds_a_part_to_the_model_of_another_package_is_not_asked_to_have_it_computed_again(
    monkeypatch: pytest.MonkeyPatch, package: str, status: Status
) -> None:
    for each in (_Wrapped, _Scaled):
        monkeypatch.setattr(each, "__module__", f"{package}.parts")
    monkeypatch.setattr(_Base.init_weights, "__module__", "base.model")

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return _Wrapped()

    found = built_on_meta(Subject(build(0).eval(), make_adapter(TASK), TASK, rebuild=build))

    assert found.status is status, found.explain()
    assert "`base.added.scale`, which no state dict holds" in found.message
