"""What a local file would do when it is imported or its model is built: refused by what runs, not by what stands in the file."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from harness.scan import dangerous_calls, training_calls

NET = "from torch import nn\nclass Net(nn.Module):\n    def __init__(self, width=3, pretrained=False):\n        super().__init__()\n"

RUNS = {
    "module": ("import os\nos.system('ls')", 2),
    "alias": ("import subprocess as s\nrun = s.run\nrun(['ls'])", 3),
    "from": ("from urllib.request import urlopen\nurlopen('http://x')", 2),
    "roundabout": ("import torch\ngetattr(torch.os, 'sys' + 'tem')('ls')", 2),
    "dynamic": ("__import__('subprocess').call(['ls'])", 1),
    "class_body": ("import os\nclass A:\n    x = os.popen('ls').read()", 3),
    "default": ("import os\ndef f(x=os.system('ls')):\n    pass", 2),
    "decorator": ("import os\n@os.system\ndef f():\n    pass", None),
    "called": ("import os\ndef f():\n    os.system('ls')\nf()", 3),
    "called_later": ("import os\ndef g():\n    f()\ndef f():\n    os.system('ls')\nif True:\n    g()", 5),
    "handed_on": ("import atexit, os\natexit.register(os.system, 'ls')", 2),
    "string": ("exec('import os; os.system(1)')", 0),
    "method": ("import socket\nclass A:\n    def go(self):\n        socket.create_connection(('x', 1))\nA().go()", 4),
    "unknown_condition": ("import os\nif os.environ.get('X'):\n    os.system('ls')", 3),
    "loop": ("import os\nfor _ in range(3):\n    os.fork()", 3),
    "except": (
        "import subprocess\ntry:\n    import apex\nexcept ImportError:\n    subprocess.run(['pip', 'install', 'apex'])",
        5,
    ),
    "comprehension": ("import requests\nx = [requests.get(u) for u in ('a',)]", 2),
    "hub": ("import torch\nmodel = torch.hub.load('a/b', 'c')", 2),
}

RESTS = {
    "main_block": "import os\nif __name__ == '__main__':\n    os.system('ls')",
    "main_block_else": "import os\nif __name__ != '__main__':\n    pass\nelse:\n    os.system('ls')",
    "never_called": "import os\ndef download():\n    os.system('wget')",
    "imports_only": "import subprocess, socket, requests\nfrom torch.hub import load_state_dict_from_url\nimport multiprocessing",
    "type_checking": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import os\n    os.system('ls')",
    "counts": "import multiprocessing, os\nworkers = min(multiprocessing.cpu_count(), os.cpu_count())",
    "environment": "import os\nos.environ['X'] = '1'\nos.makedirs('out', exist_ok=True)\nos.path.join('a', 'b')",
    "forward": NET + "    def forward(self, x):\n        import os\n        os.system('ls')\n        return x",
    "known_condition": "import os\nSETUP = False\nif SETUP:\n    os.system('ls')",
    "short_circuit": "import os\nDEBUG = False\nDEBUG and os.system('ls')\nx = os.system('ls') if DEBUG else 0",
    "own_name": "class A:\n    def system(self):\n        return 1\n    def __init__(self):\n        self.system()\nA()",
    "exceptions": "import requests\nE = requests.exceptions.RequestException",
}

METHOD = (
    "        self.pretrained = pretrained\n        self.fill()\n    def fill(self):\n"
    "        if self.pretrained:\n            torch.hub.load('a', 'b')\n"
)


def found(folder: Path, source: str, **options: object) -> list[tuple[str, int]]:
    file = folder / "model.py"
    file.write_text(source)
    return [(Path(each.file).name, each.line) for each in dangerous_calls(file, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name, (_, line) in RUNS.items() if line is not None])
def test_what_runs_at_import_is_found_on_its_line(name: str, tmp_path: Path) -> None:
    source, line = RUNS[name]
    assert ("model.py", line) in found(tmp_path, source)


@pytest.mark.parametrize("name", RESTS)
def test_what_does_not_run_is_let_be(name: str, tmp_path: Path) -> None:
    assert found(tmp_path, RESTS[name]) == []
    for each in ("Net", "A"):
        assert found(tmp_path, RESTS[name], factory=each) == []


@pytest.mark.parametrize(
    ("body", "kwargs", "line"),
    [
        ("        if pretrained:\n            torch.hub.load_state_dict_from_url('u')\n", {}, None),
        ("        if pretrained:\n            torch.hub.load_state_dict_from_url('u')\n", {"pretrained": True}, 7),
        ("        if not pretrained:\n            return\n        torch.hub.load('a', 'b')\n", {}, None),
        ("        if not pretrained:\n            return\n        torch.hub.load('a', 'b')\n", {"pretrained": True}, 8),
        (
            METHOD,
            {},
            None,
        ),
        (
            METHOD,
            {"pretrained": True},
            10,
        ),
    ],
    ids=["off", "on", "left", "not_left", "method_off", "method_on"],
)
def test_a_condition_on_an_argument_decides(body: str, kwargs: dict[str, object], line: int | None, tmp_path: Path) -> None:
    places = found(tmp_path, "import torch\n" + NET + body, factory="Net", kwargs=kwargs)
    assert places == ([] if line is None else [("model.py", line)])


def test_arguments_are_followed_through_calls(tmp_path: Path) -> None:
    source = (
        "from torch.utils.model_zoo import load_url\n"
        "def _net(arch, pretrained, **kwargs):\n    if pretrained:\n        load_url('u')\n"
        "def build_model(pretrained=False, **kwargs):\n    return _net('a', pretrained, **kwargs)\n"
    )
    assert found(tmp_path, source, factory="build_model") == []
    assert found(tmp_path, source, factory="build_model", kwargs={"pretrained": True}) == [("model.py", 4)]


@pytest.mark.parametrize(
    "how", ["import parts\nparts.fetch()", "from parts import fetch\nfetch()", "from .parts import fetch as f\nf()"]
)
def test_files_beside_it_are_followed(how: str, tmp_path: Path) -> None:
    (tmp_path / "parts.py").write_text("import os\ndef fetch():\n    os.system('ls')\ndef other():\n    os.system('rm')\n")
    assert found(tmp_path, how) == [("parts.py", 3)]


def test_a_file_that_is_imported_runs_too(tmp_path: Path) -> None:
    (tmp_path / "parts.py").write_text("import os\nos.system('ls')\n")
    assert found(tmp_path, "from parts import nothing") == [("parts.py", 2)]


def test_code_that_calls_itself_ends(tmp_path: Path) -> None:
    assert (
        found(tmp_path, "import os\ndef f(n=1):\n    return g(n)\ndef g(n):\n    return f(n)\nf()\nclass A(A): pass\nA()") == []
    )


@pytest.mark.parametrize("source", ["def f(:", "x = 1\x00", "(" * 500 + ")" * 500])
def test_what_cannot_be_read_is_left_to_the_import(source: str, tmp_path: Path) -> None:
    assert found(tmp_path, source) == []


def test_training_at_import_is_seen_and_training_below_main_is_not(tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    body = "def main():\n    loss().backward()\n"
    file.write_text(body + "main()\n")
    assert [finding.line for finding in training_calls(file)] == [2]
    file.write_text(body + "if __name__ == '__main__':\n    main()\n")
    assert list(training_calls(file)) == []


def files_of_transformers() -> list[Path]:
    spec = importlib.util.find_spec("transformers")
    folder = Path(spec.origin).parent / "models" if spec is not None and spec.origin else Path("nowhere")
    return sorted(folder.glob("*/modeling_*.py"))[::25]


@pytest.mark.parametrize("path", files_of_transformers(), ids=lambda path: path.name)
def test_ordinary_model_code_is_not_refused(path: Path) -> None:
    assert list(dangerous_calls(path)) == []
    assert list(training_calls(path)) == []


def test_imports_that_start_from_a_folder_above_are_followed(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "parts.py").write_text(
        "try:\n    import apex\nexcept ImportError:\n    import os\n    os.system('pip install apex')\n"
    )
    (folder / "net.py").write_text("from models.parts import apex\n" + NET)
    found = next(dangerous_calls(folder / "net.py"))
    assert (Path(found.file).name, found.line, found.rule) == ("parts.py", 5, "process")
    installed = (folder / "parts.py").read_text().replace("apex\nexcept", "torch\n    assert hasattr(torch, 'nn')\nexcept")
    (folder / "parts.py").write_text(installed.replace("except ImportError", "except (ImportError, AssertionError)"))
    assert list(dangerous_calls(folder / "net.py")) == []  # what installs a package that is there does not run
