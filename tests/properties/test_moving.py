"""A branch that starts at zero hides a part of the input until the first step; a part that is left out stays hidden."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from harness.evidence import Status
from harness.tasks import TaskSpec, TaskType
from pytest_modeltiers.live import judge_model

IMAGES = TaskSpec(TaskType.IMAGE_CLASSIFICATION, image_size=(3, 8, 8), num_classes=4)


class Gated(nn.Module):
    """A way around with a stride reads the upper left alone; the branch that reads everything ends in a norm that starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(3, 8, 8, bias=False), nn.GroupNorm(1, 8))
        self.around = nn.Conv2d(3, 8, 1, 8, bias=False)
        self.head = nn.Linear(8, 4)
        nn.init.zeros_(self.branch[1].weight)

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.around(pixel_values) + self.branch(self.seen(pixel_values))
        return self.head(x.mean((2, 3)))

    def seen(self, pixel_values: Tensor) -> Tensor:
        return pixel_values


class Cropped(Gated):
    """The branch never sees the lower half."""

    def seen(self, pixel_values: Tensor) -> Tensor:
        return torch.cat((pixel_values[:, :, :4], pixel_values[:, :, :4]), 2)


@pytest.mark.parametrize(("model", "status"), [(Gated, Status.OK), (Cropped, Status.FAIL)])
def test_a_branch_that_starts_at_zero_is_judged_as_after_a_step(model: type[nn.Module], status: Status) -> None:
    found = judge_model(model, IMAGES, only=("input_dependence",))["input_dependence[regions]"]

    assert found.status is status, found.explain()
    if status is Status.FAIL:
        assert found.details["ignored"] == ["the lower left quarter", "the lower right quarter"]
