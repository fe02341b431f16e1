"""A run that was made in Python: its bundle rebuilds it, or says when it is made that it cannot."""

from __future__ import annotations

import importlib
import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import names, snapshot
from torch import nn

from harness.adapters import Adapter
from harness.cli import main
from harness.config import EvalConfig, TrainingConfig, load_config
from harness.evidence import Status
from harness.experiments import ExperimentDB
from harness.repro import create_repro_bundle, repro
from harness.repro.manifest import ReproError
from harness.tasks import TaskSpec, TaskType
from harness.training.model_record import definitions_in
from harness.training.run import run_training, train_config

TASK = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=3, num_classes=2)
long = partial(pytest.param, marks=pytest.mark.long)
PARTS = """
from torch import nn

def body(width):
    return nn.Linear(3, width)
"""
NET = """
import torch
from net_parts import body
from torch import nn

from harness.adapters import Adapter
from harness.cli import main


class Net(nn.Module):
    def __init__(self, width=4, *, rate=0.0):
        super().__init__()
        self.width, self.rate = width, rate
        self.body, self.drop, self.head = body(width), nn.Dropout(rate), nn.Linear(width, 2)

    def forward(self, features):
        return self.head(self.drop(torch.tanh(self.body(features))))


class Forgetful(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.body, self.head = nn.Linear(3, width), nn.Linear(width, 2)

    def forward(self, features):
        return self.head(torch.tanh(self.body(features)))


class Needy(Forgetful):
    def __init__(self, sizes):
        super().__init__(*sizes)


class Scaled(Adapter):
    scale = 2.0

    def loss(self, logits, batch):
        return self.scale * super().loss(logits, batch)
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The user's module, in its own folder, and rows beside the run."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "net_of_a_run.py").write_text(NET, encoding="utf-8")
    (code / "net_parts.py").write_text(PARTS, encoding="utf-8")
    rows = "".join(f"{n % 3},{n % 5 / 5},{n % 7 / 7},{n % 2}\n" for n in range(40))
    (tmp_path / "rows.csv").write_text("a,b,c,label\n" + rows, encoding="utf-8")
    monkeypatch.syspath_prepend(str(code))
    yield importlib.import_module("net_of_a_run")
    for name in ("net_of_a_run", "net_parts"):
        sys.modules.pop(name, None)


def trained(folder: Path, model: nn.Module, adapter: Adapter | None = None, **keys: Any) -> int:
    """The id of a run in ``runs.db`` of a folder."""
    results = run_training(
        model,
        adapter,
        TrainingConfig(epochs=2, batch_size=8, learning_rate=0.01),
        TASK,
        EvalConfig(path="rows.csv", split="[80%:]"),
        train_cfg=EvalConfig(path="rows.csv", split="[:80%]"),
        db=folder / "runs.db",
        run_name="in python",
        folder=folder,
        engine="plain",
        progress=False,
        **keys,
    )
    return int(results["run_id"])


def bundled(folder: Path, run: int, **keys: Any) -> Path:
    return create_repro_bundle(run, db=folder / "runs.db", output_dir=folder / "out", env_snapshot=snapshot(), **keys)


def read(path: Path, name: str) -> str:
    with zipfile.ZipFile(path) as archive:
        return archive.read(name).decode()


def train_again(config: Path) -> dict[str, Any]:
    return train_config(load_config(config), progress=False)


def test_the_bundle_rebuilds_model_adapter_weights_data_and_seed(
    net: Any, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    torch.manual_seed(3)
    path = bundled(tmp_path, trained(tmp_path, net.Net(6, rate=0.25), net.Scaled(TASK), seed=11))
    assert not [warning for warning in recwarn if "cannot rebuild" in str(warning.message)]
    assert {"model/net_of_a_run.py", "model/net_parts.py", "data/rows.csv", "weights/run-1-weights.pt"} < {*names(path)}
    config = json.loads(read(path, "config.json"))
    assert (config["model_factory"], config["model_kwargs"], config["seed"]) == ("Net", {"width": 6, "rate": 0.25}, 11)
    assert config["train"]["split"] == "[:80%]"
    result = repro(path, trust=True, train=train_again)
    assert result.status is Status.OK, str(result)
    assert result.headline.endswith("metrics, equal to the bit")


def test_an_embedded_model_that_was_made_in_python_is_rebuilt(net: Any, tmp_path: Path) -> None:
    from harness.models.stubs import build_stub

    path = bundled(tmp_path, trained(tmp_path, build_stub(TASK)))
    assert not json.loads(read(path, "manifest.json"))["missing"]
    assert repro(path, trust=True, train=train_again).status is Status.OK


def local(net: Any) -> nn.Module:
    class Inner(net.Net):  # type: ignore[misc]
        pass

    return Inner()


def put_together(net: Any) -> nn.Module:
    """Modules in an order that no constructor knows."""
    model: nn.Module = net.Net()
    model.body = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    return model


def frozen(net: Any) -> nn.Module:
    model: nn.Module = net.Net()
    model.head.weight.requires_grad_(False)
    return model


def changed_attribute(net: Any) -> nn.Module:
    model: nn.Module = net.Net()
    model.rounds = 3
    return model


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (local, "Inner is defined inside a function or class"),
        long(lambda net: net.Forgetful(5), "does not fit Forgetful; shape: body.weight (5, 3) instead of (4, 3)"),
        long(lambda net: net.Needy([5]), "Needy needs `sizes`, which the model does not keep"),
        long(frozen, "Net, made again from its source, has other modules, shapes or frozen parameters"),
        (changed_attribute, "`rounds` of Net was 3, and is None"),
        long(put_together, "does not fit Net; missing: body.weight"),
    ],
    ids=["local class", "argument not kept", "argument needed", "frozen in Python", "changed in Python", "put together"],
)
def test_what_cannot_be_rebuilt_is_said_when_the_bundle_is_made(
    net: Any, tmp_path: Path, make: Callable[[Any], nn.Module], said: str
) -> None:
    run = trained(tmp_path, make(net))
    with pytest.warns(UserWarning, match="cannot rebuild it. Missing: ") as warned:
        path = bundled(tmp_path, run)
    assert any(said in str(warning.message) for warning in warned), [str(warning.message) for warning in warned]
    assert any(said in sentence for sentence in json.loads(read(path, "manifest.json"))["missing"])
    assert "It cannot rebuild it. Missing:" in read(path, "README.md")
    with pytest.raises(ReproError, match="cannot be rebuilt from this bundle") as refused:
        repro(path, trust=True, train=train_again)
    assert "\n" not in str(refused.value)


def test_the_command_warns_of_a_bundle_that_is_only_a_record(
    net: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(tmp_path, net.Needy([5]))
    capsys.readouterr()
    words = ["repro", "create", str(run), "--db", str(tmp_path / "runs.db"), "--output", str(tmp_path)]
    monkeypatch.setattr("harness.repro.bundle.snapshot", snapshot)
    assert main(words) == 0
    wrote, warned = capsys.readouterr().out.splitlines()
    assert wrote == f"wrote {tmp_path / 'in_python-1-repro.zip'}"
    assert warned.startswith(
        "warning: in_python-1-repro.zip is a record of run 1 (in python) and cannot rebuild it. Missing: Needy"
    )
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "warn"
    assert main(["repro", str(tmp_path / "in_python-1-repro.zip"), "--trust"]) == 2


@pytest.mark.long
def test_weights_that_are_gone_are_missing(net: Any, tmp_path: Path) -> None:
    run = trained(tmp_path, net.Net())
    with ExperimentDB(tmp_path / "runs.db") as db:
        (weights,) = [artifact.path for artifact in db.get_artifacts(run) if artifact.kind == "initial_weights"]
    Path(weights).write_bytes(b"other")
    with pytest.warns(UserWarning, match=r"run-1-weights\.pt is gone or was changed"):
        bundled(tmp_path, run)


@pytest.mark.long
def test_a_model_that_is_named_at_the_bundling_takes_the_place_of_what_is_missing(net: Any, tmp_path: Path) -> None:
    run = trained(tmp_path, net.Forgetful(5))
    named = {"model_file": str(tmp_path / "code" / "net_of_a_run.py"), "model_factory": "Forgetful", "model_kwargs": {"width": 5}}
    path = bundled(tmp_path, run, training_cfg={"epochs": 2, **named})
    assert not json.loads(read(path, "manifest.json"))["missing"]


def test_the_definitions_of_a_cell_are_kept_and_what_it_does_is_not() -> None:
    cell = """
import math

SIZE = 3
model = make()


@register
class Net(Base):
    size = SIZE


print(math.pi)
for x in y:
    pass
"""
    assert [line for line in definitions_in(cell).splitlines() if line] == [
        "import math",
        "SIZE = 3",
        "@register",
        "class Net(Base):",
        "    size = SIZE",
    ]
