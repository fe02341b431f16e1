"""Model files that each try to leave a mark: a file that was not there, one that is gone, or a connection to a listener.

``MARK`` and ``CANARY`` stand for paths and ``PORT`` for the listener's port; ``{BODY}`` is a sound model.
"""

from __future__ import annotations

from dataclasses import dataclass

BODY = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x):
        return self.layer(x)

def build_model():
    return Net()
"""

_IN_FORWARD = """
import torch
from torch import nn

class Net(nn.Module):
    def forward(self, x):
        try:
            {ACT}
        except Exception:
            pass
        return x

def build_model():
    return Net()
"""


@dataclass(frozen=True)
class Hostile:
    """A model file that tries to do harm.

    Attributes:
        name: Of the file.
        code: Before the sound part.
        mark: ``file``, ``canary`` or ``listener``: what shows that it did.
        dodges: Whether the static scan sees nothing.
        body: The model.
    """

    name: str
    code: str
    mark: str = "file"
    dodges: bool = False
    body: str = BODY

    @property
    def source(self) -> str:
        """The file's content."""
        return self.code + self.body


def _in_forward(name: str, act: str, **keys: object) -> Hostile:
    return Hostile(name, "", body=_IN_FORWARD.replace("{ACT}", act), **keys)  # type: ignore[arg-type]


def _letters(text: str) -> str:
    """A list of numbers, which no reader of strings recognises."""
    return repr([ord(letter) for letter in text])


HOSTILE = (
    Hostile("os_system", "import os\nos.system('touch MARK')\n"),
    Hostile("renamed", "from os import system as layer_norm\nlayer_norm('touch MARK')\n"),
    Hostile("alias", "import os\no = os\np = o.popen\np('touch MARK').read()\n"),
    Hostile("shell", "import subprocess\nsubprocess.run('touch MARK', shell=True)\n"),
    Hostile("fork", "import os\nif os.fork() == 0:\n    open('MARK', 'w').close()\n    os._exit(0)\nos.wait()\n"),
    Hostile("spawn", "import os\nos.posix_spawn('/usr/bin/touch', ['touch', 'MARK'], {})\nos.wait()\n"),
    Hostile("write", "with open('MARK', 'w') as file:\n    file.write('x')\n"),
    Hostile("append", "open('MARK', mode='a').close()\n"),
    Hostile("pathlib", "from pathlib import Path\nPath('MARK').write_text('x')\n"),
    Hostile("path_open", "from pathlib import Path\nPath('MARK').open('w').close()\n"),
    Hostile("remove", "import os\nos.remove('CANARY')\n", mark="canary"),
    Hostile("rmtree", "import shutil, os.path\nshutil.rmtree(os.path.dirname('CANARY'))\n", mark="canary"),
    Hostile("rename", "import os\nos.replace('CANARY', 'MARK')\n", mark="canary"),
    Hostile("socket", "import socket\nsocket.create_connection(('127.0.0.1', PORT), 2).close()\n", mark="listener"),
    Hostile("http", "from urllib.request import urlopen\nurlopen('http://127.0.0.1:PORT/', timeout=0.5)\n", mark="listener"),
    Hostile("eval", "eval(\"__import__('os').system('touch MARK')\")\n"),
    Hostile("exec_packed", "import base64\nexec(base64.b64decode('PACKED'))\n"),
    Hostile("builtins", "getattr(__import__('builtins'), 'ev' + 'al')(\"open('MARK', 'w').close()\")\n"),
    Hostile(
        "subclasses",
        "for c in ().__class__.__base__.__subclasses__():\n    if c.__name__ == '_wrap_close':\n"
        "        c.__init__.__globals__['system']('touch MARK')\n",
    ),
    Hostile("dynamic_import", "import importlib\nimportlib.import_module(''.join(['o', 's'])).system('touch MARK')\n"),
    Hostile("sys_modules", "import sys\nsys.modules['o' + 's'].system('touch MARK')\n"),
    Hostile("through_torch", "import torch\ntorch.os.system('touch MARK')\n"),
    Hostile("libc", "import ctypes\nctypes.CDLL(None).system(b'touch MARK')\n"),
    Hostile("pickled", "import pickle\npickle.loads(b\"cposix\\nsystem\\n(S'touch MARK'\\ntR.\")\n"),
    Hostile("utf7", "# coding: utf-7\nimport os\nos.system(+ACc-touch MARK+ACc-)\n"),
    Hostile("thread", "import threading\nt = threading.Thread(target=open, args=('MARK', 'w'))\nt.start()\nt.join()\n"),
    Hostile(
        "decorator",
        "import os\n@os.system\nclass _:\n    __fspath__ = None\n".replace(
            "@os.system\nclass _:\n    __fspath__ = None", "@lambda f: os.system('touch MARK')\ndef f(): ..."
        ),
    ),
    _in_forward("in_forward", "__import__('os').mkdir('MARK')"),
    Hostile(
        "letters",
        f"import torch\ns = lambda n: bytes(n).decode()\ngetattr(getattr(torch, s({_letters('os')})), "
        f"s({_letters('system')}))('touch MARK')\n",
        dodges=True,
    ),
    Hostile(
        "tensor",
        f"import torch\ns = lambda n: bytes(torch.tensor(n).tolist()).decode()\n"
        f"getattr(getattr(torch.serialization, s({_letters('os')})), s({_letters('system')}))('touch MARK')\n",
        dodges=True,
    ),
    Hostile(
        "attrgetter",
        f"import torch, operator\noperator.attrgetter(bytes({_letters('os.system')}).decode())(torch)('touch MARK')\n",
        dodges=True,
    ),
    Hostile("dynamic_save", "import torch\ngetattr(torch, 'evas'[::int('-1')])(torch.zeros(1), 'MARK')\n", dodges=True),
    Hostile(
        "rust",
        "import numpy as np\nimport safetensors.numpy as n\ngetattr(n, 'save' + str('_file'))({'x': np.zeros(1)}, 'MARK')\n",
        dodges=True,
    ),
    Hostile("tofile", "import numpy as np\nnp.zeros(4).tofile('MARK')\n", dodges=True),
    Hostile("memmap", "import numpy as np\nnp.memmap('MARK', mode='w+', shape=4)\n", dodges=True),
    Hostile("log", "import logging\nlogging.basicConfig(filename='MARK', force=True)\n", dodges=True),
    Hostile("packed", "import gzip\ngzip.open('MARK', 'w').close()\n", dodges=True),
    Hostile("archive", "import zipfile\nzipfile.ZipFile('MARK', 'w').close()\n", dodges=True),
    Hostile(
        "store",
        "import torch.distributed as d\nfrom datetime import timedelta\n"
        "getattr(d, 'TCP' + str('Store'))('127.0.0.1', PORT, 2, False, timedelta(seconds=1))\n",
        mark="listener",
        dodges=True,
    ),
    _in_forward("forward_dodge", "torch.nn.functional.__dict__['__builtins__']['op' + str('en')]('MARK', 'w')"),
    _in_forward("mapped_file", "getattr(torch, 'from' + str('_file'))('MARK', shared=True, size=4)", dodges=True),
)
