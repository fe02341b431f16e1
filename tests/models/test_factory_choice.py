"""Which name of a model file builds the model where the config does not say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.model_file import names_of_model, usual_factory

PART = "class Block(nn.Module):\n    def __init__(self, width): ...\n    def forward(self, x): ...\n"
WHOLE = "class Net(nn.Module):\n    def __init__(self): self.block = Block(3)\n    def forward(self, x): ...\n"
OTHER = "class Other(nn.Module):\n    def forward(self, x): ...\n"
FACTORY = "def build_model(): return Net()\n"


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        (PART + WHOLE, "Net"),
        (PART + WHOLE + FACTORY, "build_model"),
        ("from zoo import build_model\n" + WHOLE, "build_model"),
        (PART + WHOLE + OTHER, "build_model"),
        ("class Settings:\n    width = 3\n" + WHOLE, "Net"),
        ("def broken(:\n", "build_model"),
        ("", "build_model"),
    ],
    ids=["one whole", "a function", "an imported function", "two wholes", "beside settings", "no Python", "empty"],
)
def test_the_only_whole_model_is_taken(tmp_path: Path, text: str, chosen: str) -> None:
    (tmp_path / "model.py").write_text(text)
    assert usual_factory(tmp_path / "model.py", "build_model") == chosen


def test_a_file_that_is_not_there_is_left_to_the_import(tmp_path: Path) -> None:
    assert usual_factory(tmp_path / "none.py", "build_model") == "build_model"


def test_the_names_of_a_model_are_those_of_its_file_and_of_the_files_that_it_imports(tmp_path: Path) -> None:
    (tmp_path / "blocks.py").write_text("from torch import nn\n\nclass Block(nn.Module):\n    def forward(self, x, past): ...\n")
    (tmp_path / "model.py").write_text("import torch\nfrom blocks import Block\n\ndef build_model():\n    return Block()\n")

    names = names_of_model(tmp_path / "model.py")

    assert names is not None
    assert {"build_model", "def build_model", "Block", "past", "arg past", "def forward"} <= names
    assert "arg Block" not in names


@pytest.mark.parametrize(
    "code",
    [
        "import transformers",
        "from .missing import Block",
        "import torch\nmodel = torch.load('model.pt')",
        "import torch\nmodel = torch.hub.load('a/b', 'c')",
        "net = eval('Net()')",
        "net = __import__('nets').Net()",
        "def broken(",
    ],
)
def test_the_names_of_a_model_are_not_known_where_other_code_may_be_part_of_it(code: str, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(code)

    assert names_of_model(tmp_path / "model.py") is None


def test_every_stub_can_be_read() -> None:
    import harness

    assert names_of_model(Path(harness.__file__).parent / "models" / "stubs.py", packages=("harness",))
