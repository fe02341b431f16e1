"""Modules that a script of the repository makes and passes to the model: its encoder, its backbone, its settings as a dict with attributes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from harness.cli import main
from harness.config import load_config
from harness.models.factories import factories
from harness.models.factory import Factory
from harness.models.followed.call_sites import found_call
from harness.models.loading import model_source
from harness.user_code import import_file

PAIR = """
from torch import nn

class Pair(nn.Module):
    def __init__(self, reader, writer):
        super().__init__()
        self.reader, self.writer = reader, writer

    def forward(self, x):
        return self.writer(self.reader(x))
"""
PARTS = """
from torch import nn

class Narrow(nn.Module):
    def __init__(self, inputs, width, act=None):
        super().__init__()
        self.layer = nn.Linear(inputs, width)

    def forward(self, x):
        return self.layer(x).relu()
"""


def made_in(tmp_path: Path, files: Mapping[str, str]) -> Factory:
    for name, text in {"README.md": "", "pair.py": PAIR, **files}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    made = next(factories(import_file(tmp_path / "pair.py", "pair.py"), {}))
    assert isinstance(made, Factory)
    return made


@pytest.mark.parametrize("folder", ["", "pieces/"], ids=["beside the model", "in a folder"])
def test_a_part_is_made_as_the_script_makes_it(tmp_path: Path, folder: str) -> None:
    train = (
        f"from {folder.replace('/', '.')}narrow_parts import Narrow\nfrom pair import Pair\nfrom torch import nn\n"
        "settings = dict(width=6)\n"
        "reader = Narrow(5, **settings)\nmodel = Pair(reader, nn.Linear(6, 3, bias=False)).cuda()\n"
    )
    made = made_in(tmp_path, {"train.py": train, f"{folder}narrow_parts.py": PARTS})
    assert made.call == "Pair(reader=Narrow(inputs=5, width=6), writer=torch.nn.Linear(6, 3, bias=False))"
    assert made.source.build()(torch.randn(2, 5)).shape == (2, 3)


def test_what_the_script_does_not_say_of_a_part_is_guessed(tmp_path: Path) -> None:
    train = (
        "from narrower_parts import Narrow\nfrom pair import Pair\nfrom torch import nn\n"
        "words = load()\nmodel = Pair(Narrow(len(words), 16), nn.Linear(16, 2))\n"
    )
    made = made_in(tmp_path, {"train.py": train, "narrower_parts.py": PARTS.replace("inputs", "input_dim")})
    assert "Narrow(width=16, input_dim=16)" in made.call
    assert "input_dim" in made.guessed


def test_a_part_that_the_script_changes_is_not_taken_for_what_it_was(tmp_path: Path) -> None:
    train = "from pair import Pair\nfrom torch import nn\nhead = nn.Linear(6, 3)\nhead.bias = None\nPair(nn.Identity(), head)\n"
    (tmp_path / "README.md").write_text("")
    (tmp_path / "train.py").write_text(train)
    (tmp_path / "pair.py").write_text(PAIR)
    assert not next(factories(import_file(tmp_path / "pair.py", "pair.py"), {})).objects[1:]


def test_init_writes_the_parts_into_the_file_that_builds_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = "from thin_parts import Narrow\nfrom pair import Pair\nmodel = Pair(Narrow(5, 6), Narrow(6, 3))\n"
    made_in(tmp_path, {"train.py": train, "thin_parts.py": PARTS})
    assert main(["init", str(tmp_path / "pair.py"), "--no-run"]) == 0
    assert "arguments as in train.py, line 3" in capsys.readouterr().out
    model = model_source(load_config(tmp_path / "modeltiers.toml")).build()
    assert model.writer.layer.out_features == 3


def test_a_dict_with_attributes_is_read_from_the_config_of_the_repository(tmp_path: Path) -> None:
    net = (
        "from torch import nn\nclass Pair(nn.Module):\n    def __init__(self, h):\n        super().__init__()\n"
        "        self.layer = nn.Linear(h.width, h.width)\n    def forward(self, x):\n        return self.layer(x)\n"
    )
    train = (
        "import argparse, json\nfrom pair import Pair\n"
        "class AttrDict(dict):\n    def __init__(self, *args, **kwargs):\n        super().__init__(*args, **kwargs)\n"
        "        self.__dict__ = self\n"
        "parser = argparse.ArgumentParser()\nparser.add_argument('--config', default='')\nargs = parser.parse_args()\n"
        "with open(args.config) as file:\n    h = AttrDict(json.loads(file.read()))\nmodel = Pair(h)\n"
    )
    made = made_in(tmp_path, {"pair.py": net, "train.py": train, "config_v1.json": '{"width": 7, "rate": 0.1}'})
    assert made.source.build().layer.in_features == 7


def test_an_object_that_holds_itself_ends(tmp_path: Path) -> None:
    train = (
        "from pair import Pair\nclass Holder:\n    def __init__(self):\n        self.width = 3\n        self.me = self\n"
        "Pair(Holder(), 4)\n"
    )
    net = PAIR.replace("self.reader,", "self.width, self.me = reader.width, reader.me\n        self.reader,")
    for name, text in {"README.md": "", "pair.py": net, "train.py": train}.items():
        (tmp_path / name).write_text(text)
    found = found_call(import_file(tmp_path / "pair.py", "pair.py").Pair, ("reader", "writer"))
    assert found is not None
    assert found.values == {"reader": {"width": 3}, "writer": 4}


def test_an_object_of_another_class_than_the_annotated_one_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = (
        "from dataclasses import dataclass\nfrom torch import nn\n@dataclass\nclass Rows:\n    size: int = 0\n    # split, count\n"
        "class Pair(nn.Module):\n    def __init__(self, config: dict, rows: Rows):\n"
        "        super().__init__()\n        self.table = nn.Embedding(rows.count, config['width'])\n"
        "    def forward(self, ids):\n        return self.table(ids)\n"
    )
    train = (
        "from pair import Pair, Rows\nclass Loaded(Rows):\n    def __init__(self, path='data'):\n        self.path = path\n"
        "        self.split, self.count = None, 7\nPair({'width': 4}, Loaded())\n"
    )
    for name, text in {"README.md": "", "pair.py": net, "train.py": train}.items():
        (tmp_path / name).write_text(text)
    assert main(["init", str(tmp_path / "pair.py"), "--no-run"]) == 2
    assert "nothing here is a model" in capsys.readouterr().err
