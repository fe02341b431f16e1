"""What the scan sees in code that no model needs, with the line; and what it lets be, because models do have it."""

from __future__ import annotations

import pytest

from harness.scan import RULES, Finding, scan_files, scan_source

SEEN = {
    "process": [
        "import subprocess",
        "import os\nos.system('ls')",
        "import os as layers\nlayers.execv('ls', [])",
        "from os import popen as relu",
        "import os.path\nos.kill(1, 9)",
        "from posix import system",
        "self.helper.popen('ls')",
    ],
    "network": [
        "import socket",
        "from urllib.request import urlopen",
        "import urllib.request",
        "import requests",
        "import torch\ntorch.hub.load('a', 'b')",
        "from torch.hub import load_state_dict_from_url",
    ],
    "deletion": [
        "import os\nos.remove('x')",
        "from os import unlink",
        "from shutil import rmtree",
        "Path('x').unlink()",
        "import os\ndelete = os.rmdir\ndelete('x')",
    ],
    "writing": [
        "open('x', 'w')",
        "open('x', mode='ab')",
        "open('x', mode)",
        "open(*arguments)",
        "save = open",
        "Path('x').write_text('y')",
        "Path('x').open('w')",
        "import torch\ntorch.save({}, 'x')",
        "import numpy as np\nnp.savez('x')",
        "import os\nos.makedirs('x')",
    ],
    "native_code": [
        "import ctypes",
        "from torch.utils.cpp_extension import load",
        "import torch\ntorch.ops.load_library('x.so')",
    ],
    "unpickling": [
        "import pickle\npickle.load(f)",
        "from pickle import loads as parse",
        "import torch\ntorch.load('x', weights_only=False)",
        "torch.load('x', weights_only=flag)",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
    ],
    "dynamic_code": [
        "eval('1')",
        "exec(text)",
        "run = exec",
        "compile('x', 'y', 'exec')",
        "class A:\n    eval = None\n    eval('1')",
        "eval = None\neval('1')",
        "AutoModel.from_pretrained('x', trust_remote_code=True)",
    ],
    "dynamic_import": ["__import__(name)", "import importlib\nimportlib.import_module(name)", "from importlib import reload"],
    "hidden_data": ["import base64\nbase64.b64decode('x')", "bytes.fromhex('ff')", "import zlib\nzlib.decompress(b'x')"],
    "tampering": [
        "import sys\nsys.modules['torch']",
        "import sys\nsys._getframe(1)",
        "f.__code__ = g.__code__",
        "import sys\nsys.settrace(None)",
        "import atexit\natexit.register(f)",
    ],
    "obfuscation": [
        "__builtins__",
        "().__class__.__base__.__subclasses__()",
        "f.__globals__['x']",
        "getattr(f, '__glob' + 'als__')",
        "'{0.__globals__}'.format(f)",
        "import os\ngetattr(os, name)('ls')",
        "import os\nvars(os)['system']",
        "import torch\nx = torch.os",
        "import torch\ntorch.__dict__['os']",
        "globals()[name]()",
        "globals().get('__builtins__')",
        "from os import *",
        "import os\n[os][0].name",
        "x = 1  # \u202e",
    ],
    "unreadable": ["def f(:", "# coding: utf-7\nx = 1", "x = 1\x00", "(" * 500 + ")" * 500],
}

HARMLESS = [
    "import os\nos.environ['TOKENIZERS_PARALLELISM'] = '1'\npath = os.path.join('a', 'b')\nos.getenv('HOME')",
    "import sys\nif sys.version_info < (3, 11): pass\nprint(sys.argv, file=sys.stderr)",
    "import importlib.util\nhas = importlib.util.find_spec('flash_attn') is not None",
    "import importlib\nnp = importlib.import_module('numpy')",
    "import importlib\nimportlib.import_module(f'.{family}', __package__)",
    "from urllib.parse import urlparse",
    "import torch\nx = getattr(torch, dtype)\nact = getattr(torch.nn.functional, name)",
    "model.eval()\nmodel.compile()\ncompiled = torch.compile(model)",
    "def f(self, compile=False, open=None, input=None):\n    return compile and open(input)",
    "with open('vocab.txt') as f: f.read()",
    "open('vocab.json', encoding='utf-8')\nopen('x', 'rb')",
    "import torch\nstate = torch.load('x.pt', weights_only=True)",
    "import pickle  # for the type of its errors\ntry: pass\nexcept pickle.PickleError: pass",
    "class A:\n    def __getattr__(self, name):\n        return self.__dict__[name] if name in self.__dict__ else super().__getattr__(name)",
    "class A:\n    def __reduce__(self): return (A, ())",
    "self.system = system_prompt\nself.requests.append(1)\nself.socket = 3",
    "import sys\nthis = sys.modules[__name__]",
    "x = float.fromhex('0x1p-2')",
    "'''Uses no __globals__ and no os.system.'''",
    "frame = frames[0]\nframe.back = 1\ncode = frame.code",
    "from .os import layers\nfrom . import subprocess_like",
    "try:\n    import flash_attn\nexcept ImportError:\n    flash_attn = None",
    "from types import FunctionType\nisinstance(f, FunctionType)",
]


@pytest.mark.parametrize(("rule", "code"), [(rule, code) for rule, codes in SEEN.items() for code in codes])
def test_what_no_model_needs_is_seen_on_its_line(rule: str, code: str) -> None:
    found = [finding for finding in scan_source(code.encode(), "model.py") if finding.rule == rule]
    assert found
    assert all(finding.line <= code.count("\n") + 1 for finding in found)


@pytest.mark.parametrize("code", HARMLESS)
def test_what_models_have_is_let_be(code: str) -> None:
    assert scan_source(code.encode(), "model.py") == []


def test_a_finding_says_where_and_why() -> None:
    (found,) = scan_source(b"import os\n\n\nos.system('ls')", "model.py")
    assert str(found) == "model.py, line 4: os.system starts or stops a process [process]: os.system('ls')"
    assert found.grave


def test_every_rule_has_a_case() -> None:
    assert set(SEEN) | {"shadowing", "foreign_file", "training"} == set(RULES)


def test_a_file_that_is_long_and_bad_does_not_give_an_endless_list() -> None:
    assert len(scan_source(b"import os\n" + b"os.system('ls')\n" * 5000, "model.py")) == 100


@pytest.mark.parametrize("name", ["torch.py", "json.py", "conftest.py"])
def test_a_file_with_the_name_of_an_installed_module_is_seen(name: str) -> None:
    assert [finding.rule for finding in scan_files({name: b"x = 1"})] == ["shadowing"]


@pytest.mark.parametrize(
    ("name", "content"),
    [("fast.so", b""), ("data", b"\x7fELF"), ("old.pyc", b""), ("net.pt2", b""), ("net.onnx", b""), ("a.whl", b"PK\x03\x04")],
)
def test_a_file_that_can_hold_code_is_seen(name: str, content: bytes) -> None:
    assert [finding.rule for finding in scan_files({name: content})] == ["foreign_file"]


def test_other_files_are_none_of_its_business() -> None:
    assert scan_files({"README.md": b"os.system", "vocab.txt": b"eval", "w.safetensors": b"\x08", "config.json": b"{}"}) == []


def test_findings_are_json() -> None:
    assert Finding("process", "a.py", 1, "os.system").to_json()["reason"] == "starts or stops a process"
