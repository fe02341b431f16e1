"""Configs that declare nothing, or only a part, of what their model takes: the rest is read from an example."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.adapters import make_adapter
from harness.batches import Sizes, make_batch
from harness.cli import main
from harness.config import SuiteConfig, load_config
from harness.errors import ConfigError
from harness.models.loading import model_source

MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.frames, self.head = nn.Conv1d(4, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, steps, mask=None):
        hidden = self.frames(steps.transpose(1, 2)).transpose(1, 2)
        return self.head(hidden)

def build_model():
    return Net()
"""
EXAMPLE = """
def example_inputs():
    return torch.randn(2, 9, 4)
"""
DATA = """
import torch

def steps():
    return {"steps": torch.randn(2, 9, 4)}

kept = torch.randn(2, 9, 4)

def wide():
    return {"steps": torch.randn(2, 9, 6)}

def flat():
    return {"steps": torch.randn(9, 4)}

def more():
    return {"steps": torch.randn(2, 9, 4), "mask": torch.ones(2, 9)}

def nothing():
    return None

def broken():
    return torch.randn(2, 9, 4) @ torch.randn(5)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODELTIERS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model.py").write_text(MODEL, encoding="utf-8")
    (tmp_path / "shown.py").write_text(MODEL + EXAMPLE, encoding="utf-8")
    (tmp_path / "data.py").write_text(DATA, encoding="utf-8")
    return tmp_path


def config(folder: Path, **keys: Any) -> SuiteConfig:
    file = folder / "cfg.json"
    file.write_text(json.dumps({"model_file": "model.py", **keys}), encoding="utf-8")
    return load_config(file)


def axes_of(found: SuiteConfig) -> tuple[tuple[object, ...], tuple[object, ...]]:
    signature = found.task_spec().signature
    return signature.inputs[0].axes, signature.main.axes


@pytest.mark.parametrize(
    "keys",
    [
        {"model_file": "shown.py"},
        {"example": "data.py:steps"},
        {"example": "data.py:kept"},
        {"model_file": "shown.py", "example": ":example_inputs"},
    ],
)
def test_the_signature_is_read_from_an_example(folder: Path, keys: dict[str, Any]) -> None:
    assert axes_of(config(folder, **keys)) == (("batch", "time", 4), ("batch", "time", 5))


def test_what_is_declared_wins_over_what_is_read(folder: Path) -> None:
    found = config(
        folder,
        example="data.py:steps",
        outputs={"scores": {"kind": "class_scores"}},
        axes={"time": {"max": 20}},
    ).task_spec()

    assert found.signature.main.axes == ("batch", "time", 5)
    assert found.signature.main.class_count == 5
    assert found.signature.axes["time"].most == 20


def test_what_was_read_is_kept_for_other_processes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = axes_of(config(folder, example="data.py:steps"))
    monkeypatch.setattr("harness.scaffold.example.signature_from_call", lambda *_, **__: pytest.fail("read again"))

    assert axes_of(config(folder, example="data.py:steps")) == first


def test_an_example_beside_declared_inputs_must_fit_them(folder: Path) -> None:
    declared = {"inputs": {"steps": {"axes": ["batch", "time", 4]}}, "outputs": {"scores": {"axes": ["batch", "time", 5]}}}
    assert axes_of(config(folder, example="data.py:steps", **declared))[0] == ("batch", "time", 4)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "no `task_type`, no `inputs`, and the model gives no example of its inputs. Declare `inputs` and `outputs`, or"),
        ({"example": "data.py:nothing"}, r"`example`: data.py:nothing gives None, expected a tensor, a tuple or a dict for Net\.forward"),
        ({"example": "data.py:broken"}, r"`example`: data.py:broken raised RuntimeError: .*\(data.py, line \d+\)"),
        ({"example": "data.py:wide"}, r"Net called with the example \(steps \[2, 9, 6\]\) raised RuntimeError"),
        ({"example": "data.py:absent"}, "`example`: data.py has no 'absent'"),
        ({"example": "absent.py:steps"}, "`example`: no such file .*absent.py"),
        ({"example": "data.py:steps", "isolation": "process"}, '`isolation` "process": an example is read by calling the model'),
        ({"example": "data.py:steps", "axes": {"tyme": {"max": 9}}}, r"`axes.tyme`: no input or output has this axis. Did you mean 'time'\?"),
        (
            {"example": "data.py:flat", "inputs": {"steps": {"axes": ["batch", "time", 4]}}},
            r"`inputs.steps.axes` declares \['batch', 'time', 4\]; `example`: data.py:flat gives shape \[9, 4\]",
        ),
        (
            {"example": "data.py:wide", "inputs": {"steps": {"axes": ["batch", "time", 4]}}},
            r"`inputs.steps.axes` declares \['batch', 'time', 4\]; .* gives shape \[2, 9, 6\]",
        ),
        (
            {"example": "data.py:more", "inputs": {"steps": {"axes": ["batch", "time", 4]}}},
            "data.py:more gives 'mask', which `inputs` does not declare",
        ),
        (
            {"example": "data.py:steps", "inputs": {"x": {"axes": ["batch", 4]}}},
            "data.py:steps gives no 'x', which `inputs` declares; it gives steps",
        ),
    ],
)  # fmt: skip
def test_an_example_that_cannot_be_used_is_refused_in_one_line(folder: Path, keys: dict[str, Any], message: str) -> None:
    outputs = {"outputs": {"out": {"axes": ["batch", "time", 5]}}} if "inputs" in keys else {}
    if "x" in keys.get("inputs", {}):
        outputs = {"outputs": {"out": {"axes": ["batch", 5]}}}
    found = config(folder, **keys, **outputs)

    with pytest.raises((ConfigError, ImportError), match=message) as refused:
        found.task_spec()
    assert "\n" not in str(refused.value)


def test_a_name_of_another_form_is_refused_when_the_config_is_read(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r'`example`: got "data\.py", expected file\.py:name'):
        config(folder, example="data.py")


def test_explain_shows_the_example_and_the_reasons(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config(folder, example="data.py:steps")

    assert main(["explain", str(folder / "cfg.json")]) == 0
    out = capsys.readouterr().out
    assert "steps: {axes: [batch, time, 4]}" in out
    assert "read from `example`: data.py:steps" in out
    assert "  axes.batch: twice the rows give twice the output, and no row changes another" in out

    assert main(["explain", "--json", str(folder / "cfg.json")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["read_from"] == "`example`: data.py:steps"
    assert "inputs.steps" in found["reasons"]


GROUPED = """
import torch
from dataclasses import dataclass
from torch import nn

@dataclass
class Batch:
    x: torch.Tensor
    pair: tuple

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, batch):
        return self.head(batch.x - batch.pair[0]) * batch.pair[1]

def build_model():
    return Net()

def example_inputs():
    return Batch(torch.randn(3, 4), (torch.randn(3, 4), torch.randn(3, 2)))
"""


def test_a_dataclass_of_the_model_s_file_is_a_group(folder: Path) -> None:
    (folder / "grouped.py").write_text(GROUPED, encoding="utf-8")
    found = config(folder, model_file="grouped.py")
    task = found.task_spec()

    assert found.signature_keys().inputs["batch"].class_ == ":Batch"
    assert [each.name for each in task.signature.inputs] == ["batch.x", "batch.pair.0", "batch.pair.1"]
    model = model_source(found).build()
    assert make_adapter(task, folder=folder).logits(model, make_batch(task, Sizes(5))).shape == (5, 2)
