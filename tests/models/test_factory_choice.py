"""Which name of a model file builds the model where the config does not say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.model_file import usual_factory

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
