"""A bundle rebuilds its run, and says so when it does not."""

from __future__ import annotations

import json
import resource
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from small_runs import CONFIG, LOSSES, log, made, names, tampered, trainer

from harness.cli import main
from harness.config import load_config
from harness.evidence import Status
from harness.repro import create_repro_bundle, env_snapshot, repro
from harness.repro.manifest import ReproError
from harness.training.run import train_config


def test_what_is_in_it(project: Path) -> None:
    path = made(project)
    assert path.name == "tiny_run-1-repro.zip"
    about = ["README.md", "config.json", "environment.json", "manifest.json", "metrics.json", "requirements.txt"]
    assert set(names(path)) == {*about, "data/rows.csv", "model/model.py", "model/own.py", "model/parts.py"}


def test_the_same_run_gives_the_same_bytes(project: Path) -> None:
    first = made(project, env_snapshot=None).read_bytes()
    assert made(project, env_snapshot=None).read_bytes() == first


def test_a_rerun_that_comes_out_the_same_is_ok(project: Path, tmp_path: Path) -> None:
    path = made(project)
    shutil.rmtree(project)  # the bundle alone is enough
    result = repro(path, trust=True, output_dir=tmp_path / "new", train=trainer(LOSSES))
    assert result.status is Status.OK
    assert result.headline == "run 1 (tiny run) was reproduced: 1 metric, equal to the bit"
    assert {row.metric: row.verdict.value for row in result.rows} == {"val_loss": "same", "seconds": "not judged"}


def test_a_rerun_that_differs_by_a_bit_fails_in_the_same_environment(project: Path) -> None:
    result = repro(made(project), trust=True, train=trainer([1.0, 0.5 + 1e-15, *LOSSES[2:-1], 0.25 + 1e-15]))
    assert result.status is Status.FAIL
    assert "was not reproduced: other values of val_loss; first difference: val_loss at step 1" in result.headline


def test_a_rerun_that_ends_the_same_by_another_way_is_a_warning(project: Path) -> None:
    result = repro(made(project), trust=True, train=trainer([1.0, 0.75, *LOSSES[2:]]))
    assert result.status is Status.WARN
    assert "something in it is random" in result.headline
    assert "val_loss at step 1: 0.5 then, 0.75 now" in result.headline


@pytest.mark.parametrize(("last", "expected"), [(0.2502, Status.WARN), (0.3, Status.FAIL)])
def test_another_environment_may_round_otherwise(project: Path, last: float, expected: Status) -> None:
    snapshot = env_snapshot()
    snapshot["torch"]["version"] = "1.0"
    result = repro(made(project, env_snapshot=snapshot), trust=True, train=trainer([*LOSSES[:-1], last]))
    assert result.status is expected
    assert [change.name for change in result.changes] == ["torch.version"]
    assert "1.0" in str(result)


def test_without_trust_no_code_of_it_runs(project: Path) -> None:
    def train(_config: Path) -> Mapping[str, Any]:
        raise AssertionError("it ran")

    result = repro(made(project), train=train)
    assert (result.status, result.folder) == (Status.WARN, None)
    assert [code.name for code in result.code] == ["model/model.py", "model/own.py", "model/parts.py"]
    assert "--trust" in str(result)


def test_a_metric_that_is_gone_fails(project: Path) -> None:
    result = repro(made(project), trust=True, train=lambda _config: {"eval_summary": {}})
    assert result.status is Status.FAIL


def flip(files: dict[str, bytes]) -> None:
    files["model/model.py"] = files["model/model.py"][:-2] + b"x\n"


def slip(files: dict[str, bytes]) -> None:
    files["../evil.py"] = b"print()"


def escape(files: dict[str, bytes]) -> None:
    manifest = json.loads(files["manifest.json"])
    manifest["files"]["../evil.py"] = {"sha256": "0" * 64, "bytes": 0}
    files["manifest.json"] = json.dumps(manifest).encode()
    files["../evil.py"] = b""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (flip, "model/model.py"),
        (slip, "evil.py"),
        (escape, "evil.py"),
        (lambda files: files.update({"extra.txt": b"x"}), "extra.txt is not in the manifest"),
        (lambda files: files.pop("model/parts.py"), "model/parts.py is missing"),
        (lambda files: files.pop("manifest.json"), "not a repro bundle"),
        (lambda files: files.update({"manifest.json": b"{"}), "manifest.json"),
    ],
    ids=["flipped", "zip-slip", "listed-slip", "extra", "missing", "no-manifest", "forged"],
)
def test_a_damaged_bundle_is_refused(project: Path, change: Callable[[dict[str, bytes]], None], said: str) -> None:
    path = tampered(made(project), change)
    with pytest.raises(ReproError) as caught:
        repro(path, trust=True, train=trainer([]))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (path.parent / "evil.py").exists()


@pytest.mark.parametrize("kept", [0, 100, 1500])
def test_a_truncated_bundle_is_refused(project: Path, kept: int) -> None:
    path = made(project)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ReproError, match="is not a zip file, or only a part of one"):
        repro(path, train=trainer([]))


def test_large_data_stays_outside_and_is_checked(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.repro.contents.collect.__defaults__", (10,))
    path = made(project)
    assert "data/rows.csv" not in names(path)
    with pytest.raises(ReproError, match="say where it is by --data-dir"):
        repro(path, trust=True, train=trainer([]))
    assert repro(path, trust=True, data_dir=project, train=trainer(LOSSES)).status is Status.OK
    (project / "rows.csv").write_text("other")
    with pytest.raises(ReproError, match="is not the file that the run was trained on"):
        repro(path, trust=True, data_dir=project, train=trainer([]))


def test_a_missing_input_is_named(project: Path) -> None:
    (project / "rows.csv").rename(project / "row.csv")
    with pytest.raises(ReproError, match=r"`train.path`: no such file .*rows\.csv\. Did you mean 'row\.csv'"):
        made(project)
    assert not (project.parent / "out").exists()


def test_passwords_stay_at_home(project: Path) -> None:
    config = json.loads((project / "cfg.json").read_text())
    (project / "cfg.json").write_text(
        json.dumps({**config, "db_path": "postgresql://me:hunter2@host/db", "model_kwargs": {"api_key": "hunter2"}})
    )
    log(project / "cfg.json", project / "runs.db", [1.0])
    path = create_repro_bundle(2, db=project / "runs.db", output_dir=project)
    with zipfile.ZipFile(path) as archive:
        assert all(b"hunter2" not in archive.read(name) for name in archive.namelist())


def test_a_full_disk_leaves_nothing(project: Path) -> None:
    (project / "rows.csv").write_text("a,b,c,label\n" + "".join(f"{n * 7919 % 99991},{n * n},{n},0\n" for n in range(20_000)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, hard))
    try:
        with pytest.raises(ReproError, match=r"^cannot write the bundle .*: File too large; nothing was written$"):
            made(project)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (project.parent / "out").exists()


def test_by_hand(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = project / "out"
    assert main(["repro", "create", "tiny run", "--db", str(project / "runs.db"), "--output", str(out)]) == 0
    path = capsys.readouterr().out.removeprefix("wrote ").strip()
    assert main(["repro", path]) == 0
    assert "model/parts.py" in capsys.readouterr().out
    assert main(["repro", str(out / "lost.zip")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main(["repro", "create"]) == 2


TRAINED = """
from torch import nn
from parts import WIDTH

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, WIDTH), nn.Dropout(0.2), nn.ReLU(), nn.Linear(WIDTH, 2))

    def forward(self, features):
        return self.layers(features)CHANCE

def build_model():
    return Net()
"""
CHANCE = " * (1 + __import__('time').time_ns() % 1000 * 1e-3)"


def trained(project: Path, chance: str = "") -> Path:
    """The bundle of a real training, whose project is gone."""
    (project / "code" / "model.py").write_text(TRAINED.replace("CHANCE", chance))
    (project / "code" / "parts.py").write_text("WIDTH = 4\n")
    config = {**CONFIG, "epochs": 2, "batch_size": 4, "log_to_db": True, "db_path": "runs.db"}
    (project / "cfg.json").write_text(json.dumps(config))
    train_config(load_config(project / "cfg.json"), progress=False)
    path = create_repro_bundle(2, db=project / "runs.db", output_dir=project.parent)
    shutil.rmtree(project)
    return path


@pytest.mark.filterwarnings("ignore:no `eval` data is named")
def test_a_real_training_is_repeated_to_the_bit(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["repro", str(trained(project)), "--trust", "--json", "--output", str(project)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["status"], answer["first_difference"], answer["folder"]) == ("ok", None, str(project))
    verdicts = {row["metric"]: row["verdict"] for row in answer["metrics"]}
    assert verdicts.pop("examples_per_second") == "not judged"
    assert {*verdicts.values()} == {"same"}
    assert (project / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.filterwarnings("ignore:no `eval` data is named")
def test_a_training_that_is_left_to_chance_is_found_out(project: Path) -> None:
    result = repro(trained(project, CHANCE), trust=True, train=lambda config: train_config(load_config(config), progress=False))
    assert result.status is Status.FAIL
    assert result.parted is not None
    assert result.parted.step in (0, 1)
