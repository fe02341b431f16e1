"""Scripting leaves the model that is exported as it is."""

from __future__ import annotations

from pathlib import Path

import torch
from planted_bugs.tier4.exports import make_exports
from planted_bugs.tier4.models import TABLE
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm


class Normed(nn.Module):
    """Its weight norm goes where it is scripted, as that of torchaudio's position embedding; and the tracer says that it froze a size."""

    def __init__(self) -> None:
        super().__init__()
        self.head = weight_norm(nn.Linear(TABLE.num_features or 1, TABLE.num_classes or 1))

    def __prepare_scriptable__(self) -> nn.Module:
        parametrize.remove_parametrizations(self.head, "weight")
        return self

    def forward(self, features: Tensor) -> Tensor:
        if bool((features.sum() > 1e9).item()):
            return -self.head(features)
        return self.head(features)


def test_a_model_that_scripting_changes_keeps_its_weights(tmp_path: Path) -> None:
    exports = make_exports(Normed(), tmp_path, "torchscript", "pytorch")
    assert "script" in str(exports.artifact("torchscript").manifest)

    assert exports.artifact("pytorch").ours
    for model in (exports.program.forward.model, exports.reference):
        assert "head.parametrizations.weight.original0" in model.state_dict()
        assert model(torch.zeros(2, TABLE.num_features or 1)).shape == (2, TABLE.num_classes or 1)
