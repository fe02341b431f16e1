"""Code that queries its device is judged as on a real one, and what it leaves on the CPU is still found."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from harness.adapters import make_adapter
from harness.evidence import Evidence, Status
from harness.properties.device_and_dtype import device_move
from harness.properties.subject import Subject
from harness.tasks import TaskSpec, TaskType
from pytest_modeltiers.live import judge_model

TABLE = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=4, num_classes=3)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x * self.scale(x))

    def scale(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class AsksIsCuda(Scaled):
    def scale(self, x: Tensor) -> Tensor:
        scale = torch.arange(1.0, 5.0)
        return scale.cuda() if x.is_cuda else scale


class AsksTheDevice(Scaled):
    def scale(self, x: Tensor) -> Tensor:
        scale = torch.arange(1.0, 5.0)
        return scale.to("cuda") if x.device.type == "cuda" else scale


class AsksForData(Scaled):
    def scale(self, x: Tensor) -> Tensor:
        return torch.arange(1.0, 5.0, device=x.device if x.device.type != "meta" else None)


class AsksForTheNumber(Scaled):
    def scale(self, x: Tensor) -> Tensor:
        return torch.arange(1.0, 5.0, device="cpu" if x.get_device() == -1 else torch.device("cuda", x.get_device()))


class AsksForCuda(Scaled):
    def scale(self, x: Tensor) -> Tensor:
        return torch.arange(1.0, 5.0, device="cuda" if torch.cuda.is_available() else "cpu")


class StaysOnTheCpu(Scaled):
    def scale(self, x: Tensor) -> Tensor:
        return torch.arange(1.0, 5.0)


class StaysInTraining(Scaled):
    """Noise that only train mode adds."""

    def scale(self, x: Tensor) -> Tensor:
        return torch.randn(4) if self.training else x.new_ones(4)


class AsksAndForgets(Scaled):
    """Moves one of two tensors."""

    def scale(self, x: Tensor) -> Tensor:
        scale = torch.arange(1.0, 5.0)
        return (scale.cuda() if x.is_cuda else scale) + torch.ones(4)


class AsksAndReads(Scaled):
    """On CUDA it reads values, of which the simulated device has none."""

    def scale(self, x: Tensor) -> Tensor:
        return torch.tensor(x.sum(0).tolist()).to(x.device) if x.is_cuda else torch.arange(1.0, 5.0)


def moved(model: type[nn.Module]) -> Evidence:
    return judge_model(model, TABLE, only=["device_move"])["device_move"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a real device takes the place of the simulated one")
class TestSimulatedDevice:
    @pytest.mark.parametrize("model", [AsksIsCuda, AsksTheDevice, AsksForData, AsksForTheNumber, AsksForCuda])
    def test_the_branch_of_a_real_device_is_taken(self, model: type[nn.Module]) -> None:
        assert moved(model).status is Status.OK

    @pytest.mark.parametrize("model", [StaysOnTheCpu, StaysInTraining, AsksAndForgets])
    def test_what_stays_behind_is_found(self, model: type[nn.Module]) -> None:
        finding = moved(model)
        assert finding.status is Status.FAIL
        assert "stays on the CPU" in finding.message

    def test_what_cannot_be_told_is_skipped_with_the_reason(self) -> None:
        finding = moved(AsksAndReads)
        assert finding.status is Status.SKIPPED
        assert "queries its device" in finding.message


class StaysBehind(Scaled):
    def scale(self, x: Tensor) -> Tensor:
        return torch.arange(1.0, 5.0).expand(x.shape) * torch.ones(x.shape)


def test_what_is_found_out_on_the_simulated_device_is_not_kept_for_other_tests() -> None:
    subject = Subject(StaysBehind().eval(), make_adapter(TABLE), TABLE)
    assert device_move(subject).status is Status.FAIL
    assert not subject.prerequisite_failure.raises
