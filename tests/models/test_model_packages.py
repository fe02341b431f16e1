"""Model files that are part of something larger: a package, a repository, a script with arguments, a notebook."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ModelSourceError
from harness.user_code import import_file
from harness.written_in import forget_module

NET = "\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.layer = make()\n"
LAYERS = "from torch import nn\n\n\ndef make():\n    return nn.Linear(3, {width})\n"


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes the files into a folder and imports one of them."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)

    def load(files: dict[str, str], file: str, folder: str = "repo") -> Any:
        for name, text in files.items():
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_text(text, encoding="utf-8")
        return import_file(tmp_path / folder / file, "model_file")

    yield load
    for name in set(sys.modules) - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("files", "file"),
    [
        (
            {
                "zoo/__init__.py": "",
                "zoo/layers.py": LAYERS,
                "zoo/net.py": f"from torch import nn\nfrom .layers import make{NET}",
            },
            "zoo/net.py",
        ),
        ({"zoo/layers.py": LAYERS, "zoo/net.py": f"from torch import nn\nfrom .layers import make{NET}"}, "zoo/net.py"),
        (
            {"zoo/layers.py": LAYERS, "zoo/deep/net.py": f"from torch import nn\nfrom ..layers import make{NET}"},
            "zoo/deep/net.py",
        ),
        (
            {"src/layers.py": LAYERS, "src/models/net.py": f"from torch import nn\nfrom src.layers import make{NET}"},
            "src/models/net.py",
        ),
        (
            {"utils.py": LAYERS, "models/net.py": f"from torch import nn\nfrom utils import make{NET}", "pyproject.toml": ""},
            "models/net.py",
        ),
        (
            {
                "zoo/__init__.py": "from .net import Net\n",
                "zoo/registry.py": "KNOWN = []\n\ndef register(cls):\n    assert not KNOWN, 'twice'\n    KNOWN.append(cls)\n    return cls\n",
                "zoo/layers.py": LAYERS,
                "zoo/net.py": f"from torch import nn\nfrom zoo.registry import register\nfrom zoo.layers import make{NET}\nregister(Net)\n",
            },
            "zoo/net.py",
        ),
    ],
    ids=["package", "no_init", "two_levels", "root_of_the_repository", "module_beside", "registered_once"],
)
def test_a_file_finds_what_its_repository_has(load: Any, files: dict[str, str], file: str) -> None:
    files = {name: text.format(width=5) if text is LAYERS else text for name, text in files.items()}
    module = load(files, file)
    assert module.Net().layer.out_features == 5
    assert load({}, file) is module
    assert sys.modules[module.Net.__module__].Net is module.Net


def test_two_repositories_with_packages_of_one_name_are_kept_apart(load: Any) -> None:
    for width in (4, 6):
        files = {
            "zoo/layers.py": LAYERS.format(width=width),
            "zoo/net.py": f"from torch import nn\nfrom .layers import make{NET}",
        }
        assert load(files, "zoo/net.py", f"repo{width}").Net().layer.out_features == width


def test_a_file_that_is_called_like_the_package_of_another_repository_is_kept_apart(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load({"zoo.py": "WIDTH = 4\n"}, "zoo.py", "first")
    monkeypatch.syspath_prepend(str(tmp_path / "first"))
    monkeypatch.setitem(sys.modules, "zoo", first)
    files = {"zoo/layers.py": LAYERS.format(width=6), "zoo/net.py": f"from torch import nn\nfrom .layers import make{NET}"}
    assert load(files, "zoo/net.py", "second").Net().layer.out_features == 6


def test_a_file_that_parses_arguments_sees_none_of_ours(load: Any) -> None:
    code = (
        "import argparse\np = argparse.ArgumentParser()\np.add_argument('--width', type=int, default=5)\nargs = p.parse_args()\n"
    )
    assert load({"net.py": code}, "net.py").args.width == 5


READS_ARGUMENTS = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument('data')
class Net:
    size = parser.parse_args().data
"""


def test_a_folder_of_the_name_of_a_file_in_it_is_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "twice").mkdir()
    (tmp_path / "base.py").write_text("SIZE = 3\n")
    (tmp_path / "twice" / "twice.py").write_text("from base import SIZE\n")
    monkeypatch.syspath_prepend(str(tmp_path / "twice"))  # as `python -m` does with the folder that one is in
    module = import_file(tmp_path / "twice" / "twice.py", "model_file")
    assert (module.__name__, module.SIZE) == ("twice.twice", 3)


@pytest.mark.parametrize(
    ("files", "file", "says"),
    [
        ({"net.ipynb": '{"cells": []}'}, "net.ipynb", "net.ipynb is a notebook, expected a .py file"),
        ({"zoo/net.py": "from .layers import make\n"}, "zoo/net.py", "importing 'zoo.net' raised ModuleNotFoundError"),
        ({"net.py": "import no_such_package_at_all\n"}, "net.py", "Install the package that has `no_such_package_at_all`"),
        ({"a.b/net.py": "from . import layers\n"}, "a.b/net.py", "attempted relative import with no known parent package"),
        (
            {"net.py": READS_ARGUMENTS},
            "net.py",
            "the file parses a command line: the following arguments are required: data",
        ),
    ],
)
def test_what_does_not_import_is_refused_in_one_line(load: Any, files: dict[str, str], file: str, says: str) -> None:
    with pytest.raises(ModelSourceError) as refused:
        load(files, file)
    assert says in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_file_that_imports_from_two_folders_finds_both(load: Any) -> None:
    files = {
        "lib_of_two/zoo_of_two/net.py": "from zoo_of_two.sizes import WIDTH\nimport tools_of_two.extra\n",
        "lib_of_two/zoo_of_two/sizes.py": "WIDTH = 3\n",
        "tools_of_two/extra.py": "",
        "setup.py": "",
    }
    assert load(files, "lib_of_two/zoo_of_two/net.py").WIDTH == 3


def test_pytorch_lightning_is_told_apart_from_lightning(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_lightning", None)
    with pytest.raises(ModelSourceError, match=r"`lightning` is here.*`import lightning.pytorch as pl`"):
        load({"net.py": "import pytorch_lightning as pl\n"}, "net.py")


def test_a_folder_may_take_the_place_of_a_file_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "sole_parts.py").write_text("WIDTH = 3\n")
    (tmp_path / "other" / "sole_parts").mkdir(parents=True)
    (tmp_path / "other" / "sole_parts" / "net.py").write_text("WIDTH = 4\n")
    (tmp_path / "elsewhere.py").write_text("")
    elsewhere = compile("", str(tmp_path / "elsewhere.py"), "exec")
    monkeypatch.syspath_prepend(tmp_path / "one")
    importlib.import_module("sole_parts")
    inspect.getmodule(elsewhere)  # looks at every module
    forget_module("sole_parts")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "other"), *sys.path[1:]])
    assert importlib.import_module("sole_parts.net").WIDTH == 4
    inspect.getmodule(elsewhere)
    forget_module("sole_parts")
