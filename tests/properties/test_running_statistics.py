"""Fresh networks with batch norm are judged with statistics that saw a batch, and broken ones are still found."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from harness.adapters import make_adapter
from harness.evidence import Status
from harness.properties.model_variants import calibrated, untouched_statistics
from harness.properties.subject import Subject
from harness.tasks import TaskSpec, TaskType
from pytest_modeltiers.live import judge_model

IMAGES = TaskSpec(TaskType.IMAGE_CLASSIFICATION, image_size=(3, 8, 8), num_classes=4)
SIGNAL = ("initialisation", "input_dependence", "gradient_flow", "robustness")


class Deep(nn.Module):
    """In training the norms keep the signal up; with mean 0 and variance 1 it fades."""

    def __init__(self, depth: int = 30, width: int = 12) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.SiLU()]
        for _ in range(depth):
            layers += [nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width), nn.SiLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))

    def features(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ReadsTwoChannels(Deep):
    """The third channel is left out."""

    def features(self, x: Tensor) -> Tensor:
        return self.layers(torch.cat((x[:, :2], x[:, :1]), 1))


class Dead(Deep):
    """The last norm multiplies by 0."""

    def __init__(self) -> None:
        super().__init__(depth=2)
        nn.init.zeros_(self.layers[-2].weight)


@pytest.mark.long
def test_a_deep_network_is_sound() -> None:
    findings = judge_model(Deep, IMAGES, only=SIGNAL, share=0.5, tiers=(1, 2))
    assert not [finding.explain() for finding in findings.values() if finding.status is Status.FAIL]


@pytest.mark.parametrize(("model", "test"), [(ReadsTwoChannels, "input_dependence[channels]"), (Dead, "initialisation[scale]")])
def test_a_broken_one_is_found(model: type[Deep], test: str) -> None:
    findings = judge_model(model, IMAGES, only=[test.partition("[")[0]], share=0.1)
    failed = {name for name, finding in findings.items() if finding.status is Status.FAIL}
    assert test in failed
    assert "input_dependence[regions]" not in failed


def test_the_model_itself_is_left_alone_and_trained_statistics_are_kept() -> None:
    model = Deep(depth=1).eval()
    subject = Subject(model, make_adapter(IMAGES), IMAGES)
    copy = calibrated(subject)
    assert untouched_statistics(model)
    assert not untouched_statistics(copy)
    assert not copy.training
    assert calibrated(Subject(copy, make_adapter(IMAGES), IMAGES)) is copy
