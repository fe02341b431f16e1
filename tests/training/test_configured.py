"""Mistakes in what ``configure_optimizers`` returns are told in one line."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from harness.errors import TrainingError
from harness.training.optimisation import check_configuration

PARAMETER = nn.Parameter(torch.zeros(3))


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([PARAMETER], lr=0.1)


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (None, "returns None"),
        ({"lr_scheduler": StepLR(optimizer(), 1)}, 'without "optimizer"'),
        (StepLR(optimizer(), 1), "StepLR and no optimizer"),
        ({"optimizer": optimizer(), "lr_scheduler": StepLR(optimizer(), 1)}, "StepLR of another optimizer"),
        ({"optimizer": optimizer(), "lr_scheduler": {"scheduler": object()}}, "has no step()"),
    ],
)
def test_a_mistake_is_told(returned: Any, says: str) -> None:
    with pytest.raises(TrainingError) as caught:
        check_configuration(returned, is_automatic=True)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_lightning_takes_passes() -> None:
    one = optimizer()
    plateau = {"scheduler": ReduceLROnPlateau(one), "monitor": "loss"}
    for returned in (
        one,
        [one],
        (one, one),
        {"optimizer": one},
        ([one], [StepLR(one, 1)]),
        [{"optimizer": one, "lr_scheduler": plateau}],
    ):
        check_configuration(returned, is_automatic=True)
    check_configuration(([one], [{"scheduler": StepLR(one, 1), "interval": "step"}]), is_automatic=True)
    check_configuration(None, is_automatic=False)
