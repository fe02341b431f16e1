"""Scripts that train when they are imported, and notebooks written as files: only what their models need is run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import ModelSourceError
from harness.partial_import import LEFT_OUT
from harness.scan import dangerous_calls, part_run, training_calls
from harness.scan.needed import needed_part
from harness.user_code import import_file

SCRIPT = """\
from __future__ import annotations
import torch
import a_package_for_plots
from torch import nn
from data import rows

WIDTH = 8
words = open("words.txt").read().split()
sizes = {}
sizes["hidden"] = 2 * WIDTH
sizes.update(depth=2)
loader = rows()


def activation():
    return nn.GELU()


def train(model, data=loader):
    for x in data:
        model(x).sum().backward()


@torch.no_grad()
def show(model):
    return a_package_for_plots.line(model(loader))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(WIDTH, sizes["hidden"]), activation())

    def forward(self, x):
        loss = words = x
        return self.layers(words)


def build_net():
    return Net()


net = Net()
for epoch in range(10**9):
    loss = net(torch.randn(2, WIDTH)).sum()
    loss.backward()
print("trained")
"""


SOUND = "from torch import nn\n\nclass Net(nn.Module):\n    def forward(self, x):\n        return x\n"


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    before = {*sys.modules}, [*sys.path]
    yield
    for name in {*sys.modules} - before[0]:
        del sys.modules[name]
    sys.path[:] = before[1]


def written(folder: Path, text: str, name: str = "script.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_script_gives_its_model_and_does_not_train(tmp_path: Path) -> None:
    path = written(tmp_path, SCRIPT)

    module = import_file(path, "model_file")

    assert {str(path): "line 46 trains a model"} == LEFT_OUT
    assert module.build_net().layers[0].out_features == 16
    assert module.sizes == {"hidden": 16, "depth": 2}
    assert module.Net.forward.__code__.co_firstlineno == SCRIPT.splitlines().index("    def forward(self, x):") + 1
    assert vars(module).keys() & {"words", "loader", "train", "net", "epoch"} == set()
    assert (list(training_calls(path)), list(dangerous_calls(path))) == ([], [])


@pytest.mark.parametrize(
    "line", ["Net.start = net", "Net = torch.compile(net)", "sizes['hidden'] = int(net.start)"], ids=["changed", "bound", "read"]
)
def test_a_model_that_needs_what_is_trained_is_refused(line: str, tmp_path: Path) -> None:
    trained = "def fit():\n    net = Net()\n    net(1).backward()\n    return net\n\nnet = fit()\n"
    path = written(tmp_path, SCRIPT.replace("net = Net()\n", f"{trained}{line}\n"))

    assert part_run(path) is None
    assert [finding.rule for finding in training_calls(path)][:1] == ["training"]


def test_a_notebook_written_as_a_file_is_taken_without_its_commands(tmp_path: Path) -> None:
    path = written(
        tmp_path, "get_ipython().system('pip install torch')\nget_ipython().run_line_magic('matplotlib', 'inline')\n" + SCRIPT
    )

    assert import_file(path.rename(tmp_path / "notebook.py"), "model_file").Net is not None
    assert "line 1 starts or stops a process" in LEFT_OUT[str(tmp_path / "notebook.py")] or LEFT_OUT


def test_a_script_that_starts_programs_is_left_to_the_user(tmp_path: Path) -> None:
    path = written(tmp_path, f"import os\nos.system('nvidia-smi')\n{SCRIPT[len('from __future__ import annotations') :]}")

    assert part_run(path) is None
    assert next(dangerous_calls(path)).line == 2


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("import a_package_that_is_not_here", "line 6 raises ModuleNotFoundError: No module named 'a_package_that_is_not_here'"),
        ("table = open('table.csv').read()", "line 6 raises FileNotFoundError: [Errno 2] No such file or directory: 'table.csv'"),
        ("raise SystemExit('usage')", "line 6 raises SystemExit: usage"),
    ],
    ids=["package", "file", "exit"],
)
def test_what_raises_and_no_model_needs_is_left_out(line: str, why: str, tmp_path: Path) -> None:
    path = written(tmp_path, f"{SOUND}{line}\n")

    assert import_file(path, "model_file").Net is not None
    assert {str(path): why} == LEFT_OUT


def test_what_raises_and_a_model_needs_is_told(tmp_path: Path) -> None:
    path = written(
        tmp_path, "import a_package_that_is_not_here\n" + SOUND.replace("return x", "return a_package_that_is_not_here.f(x)")
    )

    with pytest.raises(ModelSourceError, match="Install the package that has `a_package_that_is_not_here`"):
        import_file(path, "model_file")


def test_a_file_that_another_one_imports_does_not_train_either(tmp_path: Path) -> None:
    script = written(tmp_path, SCRIPT, "script_beside.py")
    path = written(tmp_path, "from script_beside import Net\n\ndef build_model():\n    return Net()\n", "model.py")

    assert import_file(path, "model_file").build_model() is not None
    assert (list(LEFT_OUT), list(training_calls(path))) == ([str(script)], [])


def test_a_file_without_models_has_no_such_part() -> None:
    assert needed_part(b"import torch\nloss = torch.ones(1)\nloss.backward()\n") is None
