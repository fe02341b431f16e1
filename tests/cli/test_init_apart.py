"""Configs for models that have none, away from the model; and `modeltiers init` for a folder of save_pretrained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.adapters import make_adapter
from harness.batches import make_batch, typical_sizes
from harness.cli import main
from harness.config import load_config
from harness.errors import UserError
from harness.models.loading import model_source
from harness.scaffold.apart import config_apart

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, settings):
        super().__init__()
        self.head = nn.Linear(settings.width, 3)

    def forward(self, features):
        return self.head(features)

class Settings:
    def __init__(self, width=6):
        self.width = width
"""
SAVED = {"architectures": ["BertForMaskedLM"], "vocab_size": 40, "max_position_embeddings": 16}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODELTIERS_CACHE", str(tmp_path / "cache"))
    here = tmp_path / "here"
    (here / "saved").mkdir(parents=True)
    (here / "saved" / "config.json").write_text(json.dumps(SAVED), encoding="utf-8")
    (here / "bare").mkdir()
    files = {"settings_net.py": NET, "empty.py": "SIZE = 3\n", "broken.py": "1 / 0\n", "best.ckpt": "", "notes.txt": ""}
    for name, text in files.items():
        (here / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(here)
    return here


def test_a_second_file_lies_with_the_config_and_not_with_the_model(folder: Path) -> None:
    before = sorted(path.name for path in folder.iterdir())

    found = config_apart("settings_net.py")

    assert sorted(path.name for path in folder.iterdir() if path.name != "__pycache__") == before
    assert {path.name for path in found.config.parent.iterdir()} == {"settings_net.toml", "modeltiers_model.py"}
    assert found.on_path == folder
    model = model_source(load_config(found.config)).build()
    assert model.head.in_features == load_config(found.config).num_features
    assert config_apart("settings_net.py").config == found.config


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("settings_nat.py", r"--model: no such file settings_nat.py. Did you mean 'settings_net.py'\?"),
        ("empty.py", "empty.py: nothing here is a model that a suite can be written for."),
        ("broken.py", r"ZeroDivisionError: division by zero \(broken.py, line 1\)"),
        ("no.such.module:Net", "--model: no module 'no.such.module' from"),
        ("bare", "bare is a folder without a readable config.json, expected one of save_pretrained"),
        ("best.ckpt", "--model: best.ckpt does not say its class; write a config"),
        ("notes.txt", "--model: got 'notes.txt', expected a .py file, a folder of save_pretrained, or pkg.mod:Class"),
        (":Net", "--model: got ':Net', expected a .py file"),
    ],
)
def test_what_is_no_model_is_refused_in_words(folder: Path, model: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        config_apart(model)


def test_init_writes_the_config_of_a_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "saved", "--no-run"]) == 0
    assert (folder / "modeltiers.toml").read_text(encoding="utf-8").startswith('model = "saved"  # BertForMaskedLM;')
    found = load_config(folder / "modeltiers.toml")
    assert (found.task_type, found.max_seq_len) == ("masked_lm", 16)

    capsys.readouterr()
    assert main(["init", "saved", "--no-run"]) == 2
    assert "exists already; --force replaces it" in capsys.readouterr().err
    assert main(["init", "saved", "--no-run", "--output", "other.toml"]) == 0
    assert main(["init", "bare", "--no-run", "--force"]) == 2
    assert "bare is a folder without a readable config.json" in capsys.readouterr().err


GROUPED = """
from dataclasses import dataclass

import torch
from torch import nn

@dataclass
class Batch:
    image: torch.Tensor

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, batch):
        return self.head(batch.image)

def example_inputs():
    return Batch(torch.randn(2, 5, 4))
"""


@pytest.mark.parametrize(("model", "source"), [("grouped.py", ":Batch"), ("pkg/inside.py", "pkg.inside:Batch")])
def test_init_names_a_dataclass_as_the_config_can_find_it(folder: Path, model: str, source: str) -> None:
    (folder / "pkg").mkdir()
    (folder / "pkg" / "__init__.py").write_text("", encoding="utf-8")
    (folder / "pkg" / "sizes.py").write_text("", encoding="utf-8")
    text = GROUPED if model == "grouped.py" else GROUPED + "\nfrom . import sizes\n"
    (folder / model).write_text(text, encoding="utf-8")

    assert main(["init", model, "--no-run"]) == 0

    found = load_config(folder / "modeltiers.toml")
    assert found.inputs["batch"].class_ == source
    task = found.task_spec()
    assert (
        make_adapter(task, folder=folder).logits(model_source(found).build(), make_batch(task, typical_sizes(task))).shape[0] == 3
    )
