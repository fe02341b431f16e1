"""A bundle rebuilds its run, and says so when it does not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.config import load_config
from harness.evidence import Status
from harness.experiments import ExperimentDB
from harness.models.loading import model_source
from harness.repro import create_repro_bundle, env_snapshot, repro
from harness.repro.errors import ReproError

MODEL = "from parts import body\n\ndef build_model():\n    return body()\n"
PARTS = "from torch import nn\n\ndef body():\n    return nn.Linear(3, 2)\n"
ADAPTER = "from harness.adapters import Adapter\n\nclass Own(Adapter):\n    pass\n"
CONFIG = {
    "task_type": "tabular_classification",
    "num_features": 3,
    "num_classes": 2,
    "model_file": "code/model.py",
    "adapter": "code/own.py:Own",
    "train": {"path": "rows.csv"},
    "run_name": "tiny run",
}

LOSSES = [1.0, *(0.5 for _ in range(10)), 0.25]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "model.py").write_text(MODEL)
    (folder / "code" / "parts.py").write_text(PARTS)
    (folder / "code" / "own.py").write_text(ADAPTER)
    (folder / "code" / "unrelated.py").write_text("raise SystemExit")
    (folder / "rows.csv").write_text("a,b,c,label\n" + "1,2,3,0\n4,5,6,1\n" * 10)
    (folder / "cfg.json").write_text(json.dumps(CONFIG))
    log(folder / "cfg.json", folder / "runs.db", LOSSES)
    return folder


def log(config: Path, db_path: Path, losses: list[float]) -> None:
    loaded = load_config(config)
    with ExperimentDB(db_path) as db, db.start_run(config=loaded, facts={"config_path": str(config)}) as run:
        for step, loss in enumerate(losses):
            run.log_metrics({"val_loss": loss, "seconds": step * 1.5}, step)


def trainer(losses: list[float]) -> Callable[[Path], Mapping[str, Any]]:
    def train(config: Path) -> Mapping[str, Any]:
        loaded = load_config(config)
        model_source(loaded).build()
        assert (config.parent / str(loaded.train and loaded.train.path)).is_file()
        log(config, config.parent / "experiments.db", losses)
        return {}

    return train


def made(project: Path, **options: Any) -> Path:
    return create_repro_bundle(1, db=project / "runs.db", output_dir=project.parent / "out", **options)


def names(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_what_is_in_it(project: Path) -> None:
    path = made(project)
    assert path.name == "tiny_run-1-repro.zip"
    about = ["README.md", "config.json", "environment.json", "manifest.json", "metrics.json", "requirements.txt"]
    assert set(names(path)) == {*about, "data/rows.csv", "model/model.py", "model/own.py", "model/parts.py"}


def test_the_same_run_gives_the_same_bytes(project: Path) -> None:
    snapshot = env_snapshot()
    first = made(project, env_snapshot=snapshot).read_bytes()
    assert made(project, env_snapshot=snapshot).read_bytes() == first


def test_a_rerun_that_comes_out_the_same_is_ok(project: Path, tmp_path: Path) -> None:
    path = made(project)
    shutil.rmtree(project)  # the bundle alone is enough
    result = repro(path, trust=True, output_dir=tmp_path / "new", train=trainer(LOSSES))
    assert result.status is Status.OK
    assert result.headline == "run 1 (tiny run) comes out the same: 1 metrics, to the bit"
    assert {row.metric: row.verdict.value for row in result.rows} == {"val_loss": "same", "seconds": "not judged"}


def test_a_rerun_that_differs_by_a_bit_fails_in_the_same_environment(project: Path) -> None:
    result = repro(made(project), trust=True, train=trainer([1.0, 0.5 + 1e-15, *LOSSES[2:-1], 0.25 + 1e-15]))
    assert result.status is Status.FAIL
    assert "does not come out the same: val_loss differ; the first to part is val_loss at step 1" in result.headline


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
    assert "say --trust" in str(result)


def test_a_metric_that_is_gone_fails(project: Path) -> None:
    result = repro(made(project), trust=True, train=lambda _config: {"eval_summary": {}})
    assert result.status is Status.FAIL


def tampered(path: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


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
        (lambda files: files.pop("manifest.json"), "no repro bundle"),
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
    with pytest.raises(ReproError, match="is no zip, or only a part of one"):
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
    code = f"""
import resource, signal
from harness.repro import create_repro_bundle
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, 70_000))
try:
    create_repro_bundle(1, db={str(project / "runs.db")!r}, output_dir={str(project / "out")!r})
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("ReproError cannot write the bundle"), done.stderr
    assert not (project / "out").exists()


def test_by_hand(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = project / "out"
    assert main(["repro", "create", "tiny run", "--db", str(project / "runs.db"), "--output", str(out)]) == 0
    path = capsys.readouterr().out.removeprefix("wrote ").strip()
    assert main(["repro", path]) == 0
    assert "model/parts.py" in capsys.readouterr().out
    assert main(["repro", str(out / "lost.zip")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main(["repro", "create"]) == 2
