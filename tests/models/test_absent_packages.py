"""Packages that are not installed, and that only other parts of a repository need than its model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.cli import main
from harness.errors import FactoryError, ModelSourceError
from harness.models.loading import ModelSource
from harness.scaffold import scaffold
from harness.user_code import import_file

NET = """
import torch
from torch import nn
from .parts import HAS_FAST, Base, scale

class Net(Base):
    def __init__(self, fused=False):
        super().__init__()
        self.layer = self.fused() if fused else nn.Linear(5, 2)

    def forward(self, x):
        return scale(self.layer(x))
"""

PARTS = """
from typing import Optional
from torch import nn
import not_here.metrics as metrics
from not_here import Callback, register, Area

try:
    import not_here
    HAS_FAST = True
except ImportError:
    HAS_FAST = False

class Stop(Callback):
    at: Optional[Area] = None

@register("meter")
@metrics.timed
def meter(x):
    return x

def scale(x):
    return x * 2

class Base(nn.Module):
    def fused(self):
        return metrics.Fused(5, 2)

    def fit(self, area: "Area | None" = None):
        return Stop()
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(net: str = NET, parts: str = PARTS) -> Path:
        folder = tmp_path / f"zoo_{tmp_path.name}"
        folder.mkdir()
        for name, text in {"__init__.py": "", "parts.py": parts, "net.py": net}.items():
            (folder / name).write_text(text)
        return folder / "net.py"

    return write


def test_a_model_runs_without_what_only_its_training_needs(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    net = write()

    assert main(["init", str(net), "--no-run"]) == 0
    assert "parts.py, line 4 imports `not_here`, which is not installed: what needs it raises" in capsys.readouterr().out

    module: Any = import_file(net, "model_file")
    model = module.Net()
    assert model(torch.ones(3, 5)).shape == (3, 2)
    assert module.HAS_FAST is False
    assert "not_here" not in sys.modules
    for use in (model.fit, model.fused, sys.modules[module.Base.__module__].meter):
        with pytest.raises(ModuleNotFoundError, match="No module named 'not_here'"):
            use()


def test_a_model_that_needs_it_is_refused_with_the_package(write: Callable[..., Path]) -> None:
    module: Any = import_file(write(), "model_file")

    with pytest.raises(FactoryError, match=r"No module named 'not_here'.*Install the package that has `not_here`"):
        ModelSource(module.Net, "net.py:Net", {"fused": True}).build()


@pytest.mark.parametrize("used", ["FAST = not metrics.SLOW", "SIZE = metrics.SIZE + 1", "for each in metrics.ALL: pass"])
def test_what_is_imported_with_its_value_is_refused_as_before(used: str, write: Callable[..., Path]) -> None:
    with pytest.raises(ModelSourceError, match="Install the package that has `not_here`") as refused:
        import_file(write(parts=f"{PARTS}\n{used}\n"), "model_file")
    assert "No module named 'not_here' (parts.py, line" in str(refused.value)


def test_a_base_that_is_not_there_makes_no_model(write: Callable[..., Path]) -> None:
    with pytest.raises((FactoryError, ModelSourceError), match="not_here"):
        scaffold(write(parts=PARTS.replace("class Base(nn.Module)", "class Base(metrics.Module)")))
