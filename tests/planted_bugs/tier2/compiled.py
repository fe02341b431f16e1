"""Models that are others once they are compiled, and their twins."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.evidence import Status

from ..register import PlantedBug, register
from ..setups import Factory
from ..tasks import CLASSES, FEATURES, TABLE
from .analysed import Analysed

pytestmark = pytest.mark.slow


class Inner(nn.Module):
    """A layer with its own path for the compiler; the bug leaves the activation out there."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.proj = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        if self.fault and torch.compiler.is_compiling():
            if self.fault == "refuses":
                raise NotImplementedError("this path is not written yet")
            return x.detach() + 0 * x if self.fault == "gradient" else x
        return F.gelu(x) if self.fault != "gradient" else x


class Table(nn.Module):
    def __init__(self, fault: str = "", breaks: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, 16)
        self.inner = Inner(fault)
        self.head = nn.Linear(16, CLASSES)
        self.breaks = breaks

    def forward(self, features: Tensor) -> Tensor:
        x = self.first(features)
        if self.breaks:
            torch._dynamo.graph_break()
        return self.head(self.inner(x))


def timed(build: Factory, seconds: float = 30.0) -> Analysed:
    """A model, and too little time for a code generator."""
    return Analysed(TABLE, build, seconds)


def _plant(name: str, fault: str, code: str, module: str = "", **more: Any) -> None:
    register(PlantedBug(name, "compiled", timed(partial(Table, fault)), timed(Table), code=code, module=module, **more))


_plant("path_for_the_compiler", "activation", "differs", "inner", says="the logits differ from the uncompiled model's")
_plant("gradient_for_the_compiler", "gradient", "differs", "(model)", says="the gradient of `first.")
_plant("path_not_written", "refuses", "nothing_compiled", status=Status.WARN)
