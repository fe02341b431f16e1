"""Settings that say that a part is frozen: they are believed where every parameter of the part is trained."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from harness.training.checks.frozen_by_name import trained_by_a_setting


class Detector(nn.Module):
    """An encoder, a norm and a head, with settings."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.encoder, self.norm, self.head = nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2)
        for name, value in settings.items():
            setattr(self, name, value)

    @property
    def trained(self) -> set[str]:
        return {name for name, parameter in self.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    "settings",
    [
        {"freeze_encoder": True},
        {"encoder_frozen": True},
        {"config": SimpleNamespace(freeze_encoder=True)},
        {"train_args": {"freeze_encoder": True}},
    ],
    ids=str,
)
def test_a_part_that_a_setting_freezes_is_not_to_be_trained(settings: dict[str, Any]) -> None:
    model = Detector(**settings)
    found = trained_by_a_setting(model, model.trained)
    assert found is not None
    code, message, module, _, names = found
    assert (code, module) == ("setting_freezes_nothing", "encoder")
    assert "is True, and `encoder.weight` (and 1 other parameter) is trained" in message
    assert names == ["encoder.weight", "encoder.bias"]


@pytest.mark.parametrize(
    "settings",
    [{"freeze_encoder": False}, {"freeze_encoder": 3}, {"freeze_norm": True}, {"freeze_decoder": True}, {"freeze_weights": True}],
    ids=str,
)
def test_other_settings_say_nothing(settings: dict[str, Any]) -> None:
    model = Detector(**settings)
    assert trained_by_a_setting(model, model.trained) is None


def test_a_part_that_is_frozen_or_does_not_change_is_as_it_was_said() -> None:
    model = Detector(freeze_encoder=True)
    assert trained_by_a_setting(model, {"head.weight", "head.bias"}) is None
    model.encoder.weight.requires_grad_(False)
    assert trained_by_a_setting(model, model.trained) is None
