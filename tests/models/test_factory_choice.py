"""Which name of a model file builds the model where the config does not say it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.model_file import names_of_model, usual_factory
from harness.models.factories import factories, smallest_first
from harness.user_code import import_file

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


VECTORS = """
import torch
from torch import nn

def distances(net, images):
    return net(images)

class Tagger(nn.Module):
    def __init__(self, vocab_size, embedding_length, weights):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, embedding_length)
        self.embed.weight = nn.Parameter(weights, requires_grad=False)
        self.head = nn.Linear(embedding_length, 2)

    def forward(self, ids):
        return self.head(self.embed(ids))
"""


def test_a_table_of_trained_vectors_is_made_as_wide_as_the_model_reads_it(tmp_path: Path) -> None:
    (tmp_path / "tagger.py").write_text(VECTORS)
    (made,) = factories(import_file(tmp_path / "tagger.py", "tagger.py"), {"vocab_size": 30})
    assert made.name == "Tagger"
    assert [each.expression for each in made.objects] == ["torch.randn(30, 64)"]
    assert made.source.build()(torch.tensor([[0, 29]])).shape == (1, 2, 2)


def test_an_attribute_that_is_called_like_a_function_does_not_use_it(tmp_path: Path) -> None:
    (tmp_path / "stacks.py").write_text(
        "from torch import nn\nclass Stack(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.hg = nn.Linear(3, 3)\n    def forward(self, x):\n        return self.hg(x)\n"
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.stack = Stack()\n"
        "    def forward(self, x):\n        return self.stack(x)\n"
        "def hg(**kwargs):\n    return Net(**kwargs)\n"
    )
    assert [made.name for made in factories(import_file(tmp_path / "stacks.py", "stacks.py"), {})] == ["hg", "Net"]


def test_of_names_that_differ_by_a_size_the_smallest_comes_first() -> None:
    names = ["vit_large", "resnet152", "Head", "resnet50", "vit_tiny", "resnet18", "swin_b", "swin_t"]
    assert smallest_first(names) == ["vit_tiny", "resnet18", "Head", "resnet50", "vit_large", "resnet152", "swin_t", "swin_b"]
