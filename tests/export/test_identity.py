"""Models that differ in anything that their outputs may depend on have different identities; equal ones have the same, in any process."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from harness.adapters import make_adapter
from harness.config import load_config
from harness.export.export_model import exports_of_config
from harness.export.exports import Exports
from harness.export.store.object_hash import ObjectHash
from harness.models.loading import source_of_file
from harness.properties.subject import Subject
from harness.runtime import seeded
from harness.tasks import TaskSpec, TaskType

EXAMPLE = Path(__file__).parents[2] / "examples" / "lm_tiny_export.json"
TASK = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=4, num_classes=3)

MODEL = """
import functools
import torch
from torch import nn
import parts
from parts import act
from harness.adapters import Adapter

SCALE = 2.0
TABLE = {"shift": 0.0}

def scaled(x, by=3.0):
    return x * by

def scaler(by):
    def scale(x):
        return x * by
    return scale

def noted(module, inputs, output):
    return output

class Lazy:
    def __init__(self):
        self.exponent = 1

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("mask", torch.ones(3), persistent=False)
        self.closure = scaler(1.5)
        self.part = functools.partial(scaled, by=1.0)
        self.names = ["a", "b"]
        self.choices = {"relu", "gelu", "tanh", "silu", "elu"}
        self.lazy = Lazy()
        self.layer.register_forward_hook(noted)

    def forward(self, features):
        y = self.layer(features) * SCALE + TABLE["shift"]
        y = act(y) * parts.factor() * self.mask * self.kind()
        return self.closure(self.part(y)) ** self.lazy.exponent

    @property
    def size(self):
        return 1

    @staticmethod
    def kind(power=1):
        from lazy_parts import late
        return late() ** power

class Other(Net):
    pass

class Own(Adapter):
    margin = 0.0

    def logits(self, model, batch):
        return super().logits(model, batch) + self.margin

def build_model():
    return Net()
"""
FILES = {
    "model.py": MODEL,
    "parts.py": "import torch\nfrom deeper import number\n\ndef act(x):\n    return torch.relu(x)\n\ndef factor():\n    return number\n",
    "deeper.py": "number = 1.0\n",
    "lazy_parts.py": "def late():\n    return 1.0\n",
    "unrelated.py": "number = 7\n",
}

EDITS = {
    "code of forward": ("model.py", "** self.lazy.exponent", "** (self.lazy.exponent + 0)"),
    "global constant": ("model.py", "SCALE = 2.0", "SCALE = 2.5"),
    "global table": ("model.py", '"shift": 0.0', '"shift": 1.0'),
    "default argument": ("model.py", "def scaled(x, by=3.0)", "def scaled(x, by=3.5)"),
    "default argument of a static method": ("model.py", "def kind(power=1)", "def kind(power=2)"),
    "closure": ("model.py", "scaler(1.5)", "scaler(1.25)"),
    "partial": ("model.py", "partial(scaled, by=1.0)", "partial(scaled, by=1.125)"),
    "buffer that is not saved": ("model.py", "torch.ones(3), persistent", "torch.zeros(3), persistent"),
    "list": ("model.py", '["a", "b"]', '["a", "c"]'),
    "attribute of an attribute": ("model.py", "self.exponent = 1", "self.exponent = 2"),
    "property": ("model.py", "        return 1\n", "        return 2\n"),
    "hook": ("model.py", "    return output", "    return output * 2"),
    "no hook": ("model.py", "        self.layer.register_forward_hook(noted)\n", ""),
    "class": ("model.py", "return Net()", "return Other()"),
    "changed import": ("parts.py", "torch.relu(x)", "torch.tanh(x)"),
    "import of an import": ("deeper.py", "1.0", "1.5"),
    "import inside a function": ("lazy_parts.py", "1.0", "1.5"),
    "line numbers": ("model.py", "\nclass Net", "\n# moved\nclass Net"),
}
"""One thing that differs: the file, what stands there, and what stands there instead."""

CHANGES = {
    "forward of an instance": lambda model: setattr(model, "forward", lambda features: features[:, :3]),
    "forward of the class": lambda model: setattr(type(model), "forward", lambda self, features: features[:, :3]),
    "forward of an inner instance": lambda model: setattr(model.layer, "forward", lambda x: x[:, :3]),
    "global of the module": lambda model: setattr(sys.modules[type(model).__module__], "SCALE", 9.0),
    "global of an imported module": lambda model: (
        setattr(sys.modules["deeper"], "number", 9.0) or setattr(sys.modules["parts"], "number", 9.0)
    ),
    "function of an imported module": lambda model: setattr(sys.modules["parts"], "factor", lambda: 9.0),
    "weight": lambda model: model.layer.weight.data[0, 0].add_(1),
    "dtype": lambda model: model.double(),
    "requires_grad": lambda model: model.layer.bias.requires_grad_(False),
    "buffer": lambda model: model.mask.add_(1),
    "pre-hook": lambda model: model.register_forward_pre_hook(lambda module, inputs: None),
    "one more module": lambda model: model.add_module("more", nn.Identity()),
    "parametrization": lambda model: nn.utils.parametrizations.weight_norm(model.layer),
    "attribute": lambda model: setattr(model, "scale", 1),
    "type of a number": lambda model: setattr(model.lazy, "exponent", 1.0),
    "tied weights": lambda model: setattr(model, "twin", nn.Linear(4, 3)) or setattr(model.twin, "weight", model.layer.weight),
    "device object": lambda model: setattr(model, "device", torch.device("meta")),
}
"""One thing that is changed in memory; no file tells of it."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with a model's files; what a test imports of it is forgotten afterwards."""
    path = list(sys.path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    yield tmp_path
    forget(tmp_path)
    sys.path[:] = path


def forget(folder: Path) -> None:
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]
    importlib.invalidate_caches()


def built(folder: Path, file: str = "model.py") -> nn.Module:
    """The model of a file that is imported again."""
    forget(folder)
    return source_of_file(folder / file, "model_file", "build_model").build(0)


def identity(model: nn.Module, adapter: Any = None) -> str:
    return Exports(Subject(model, adapter or make_adapter(TASK), TASK)).identity


def identities(folder: Path) -> dict[str, str]:
    """The identity of the model, and of every one that a change in memory gives."""
    found = {"as it is": identity(built(folder)), "example": exports_of_config(load_config(EXAMPLE), None).identity}
    for name, change in CHANGES.items():
        model = built(folder)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            change(model)
        found[name] = identity(model)
    return found


def edit(folder: Path, file: str, before: str, after: str) -> None:
    text = (folder / file).read_text()
    assert before in text
    (folder / file).write_text(text.replace(before, after))
    for cached in folder.rglob("*.pyc"):  # written within the same second, and of the same size
        cached.unlink()


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_gives_another_identity(name: str, folder: Path) -> None:
    before = identity(built(folder))
    edit(folder, *EDITS[name])
    assert identity(built(folder)) != before


def test_a_file_that_is_not_imported_counts_for_nothing(folder: Path) -> None:
    before = identity(built(folder))
    edit(folder, "unrelated.py", "7", "8")
    assert identity(built(folder)) == before


def test_every_change_in_memory_gives_an_identity_and_another_process_the_same(folder: Path) -> None:
    found = identities(folder)
    assert len(set(found.values())) == len(found), [name for name in found if list(found.values()).count(found[name]) > 1]
    script = f"import json, sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_identity as t; from pathlib import Path; "
    script += f"print(json.dumps(t.identities(Path({str(folder)!r}))))"
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
    )
    there = json.loads(done.stdout)
    assert {name for name in found if found[name] != there[name]} == set()


def test_a_rebuilt_model_is_the_same(folder: Path) -> None:
    assert identity(built(folder)) == identity(built(folder))


def test_a_call_leaves_the_identity_as_it_was(folder: Path) -> None:
    model = built(folder)
    exports = Exports(Subject(model, make_adapter(TASK), TASK))
    exports.program.eager(exports.program.example)
    exports.program.forward.model.lazy.exponent = 5  # type: ignore[union-attr, assignment]
    assert exports.identity == identity(built(folder))


def test_two_files_of_one_folder_are_two_models(folder: Path) -> None:
    (folder / "copy.py").write_text(MODEL)
    assert identity(built(folder)) != identity(built(folder, "copy.py"))


@pytest.mark.parametrize("change", ["class", "attribute", "replaced method"])
def test_the_adapter_counts(change: str, folder: Path) -> None:
    model = built(folder)
    own = sys.modules[type(model).__module__].Own
    adapter = own(TASK)
    before = identity(model, make_adapter(TASK) if change == "class" else own(TASK))
    if change == "attribute":
        adapter.margin = 1.0
    elif change == "replaced method":
        adapter.logits = lambda model, batch: model(batch["features"]) * 2
    assert identity(model, adapter) != before


def test_what_cannot_be_read_is_never_the_same(folder: Path) -> None:
    model = built(folder)
    model.handle = memoryview(b"1")  # of a kind that does not say what it holds
    assert ObjectHash().of(model) != ObjectHash().of(model)
    assert ObjectHash(lambda: "this run").of(model) == ObjectHash(lambda: "this run").of(model)


def test_the_mode_of_a_part_counts(folder: Path) -> None:
    model = built(folder)
    before = ObjectHash().of(model)
    model.layer.train()
    assert ObjectHash().of(model) != before


def typed_in(source: str) -> nn.Module:
    """A model whose code has no file, as that of a notebook."""
    cell = ModuleType("__main__")
    exec(compile(source, "<cell 1>", "exec"), vars(cell))
    with seeded(0):
        return cell.build_model().eval()


def test_code_without_a_file_counts() -> None:
    source = "from torch import nn\nSCALE = 1\nclass Net(nn.Linear):\n def forward(self, features):\n  return features * SCALE\n"
    source += "def build_model():\n return Net(4, 3)\n"
    same, again = (identity(typed_in(source), make_adapter(TASK)) for _ in range(2))
    others = [source.replace("SCALE = 1", "SCALE = 2"), source.replace("features * SCALE", "features + SCALE")]
    assert same == again
    assert len({same, *(identity(typed_in(other), make_adapter(TASK)) for other in others)}) == 3


def test_a_set_is_the_same_in_any_order() -> None:
    class Odd:
        """Hashed by where it lies in memory."""

        def __init__(self, number: int) -> None:
            self.number = number

    assert ObjectHash().of({Odd(n) for n in range(9)}) == ObjectHash().of({Odd(n) for n in reversed(range(9))})
    assert ObjectHash().of({Odd(1)}) != ObjectHash().of({Odd(2)})


def test_sharing_is_told_from_equality() -> None:
    shared = [1]
    assert ObjectHash().of([shared, shared]) != ObjectHash().of([[1], [1]])
