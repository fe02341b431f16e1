"""``modeltiers train`` as users run it: real processes, killed with real signals."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.cli import main
from harness.experiments import ExperimentDB

CONFIG: dict[str, Any] = {
    "task_name": "lm_tiny",
    "epochs": 2,
    "batch_size": 16,
    "learning_rate": 2e-3,
    "accumulate_grad_batches": 2,
    "train": {"dataset_id": "lm_tiny_v1", "max_eval_examples": 160},
    "eval": {"dataset_id": "lm_tiny_v1", "max_eval_examples": 15},
}


def write(folder: Path, **keys: Any) -> Path:
    path = folder / "cfg.json"
    path.write_text(json.dumps({**CONFIG, **keys}))
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "harness", "train", "--json", *map(str, arguments)]


def train(config: Path, *arguments: object, launcher: tuple[str, ...] = ()) -> dict[str, Any]:
    line = [*launcher, *command("--config", config, *arguments)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=config.parent, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def weights(path: str | Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def same(left: str | Path, right: str | Path) -> bool:
    a, b = weights(left), weights(right)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def train_here(config: Path, *arguments: str) -> dict[str, Any]:
    """Trains in this process, which has imported Lightning already, as a new one must."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.chdir(config.parent)
        assert main(["train", "--json", "--quiet", "--config", str(config), *arguments]) == 0
    return json.loads(said.getvalue())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    return train_here(write(folder, log_to_db=True, run_name="whole"))


def test_it_learns_and_its_run_is_remembered(
    uninterrupted: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert uninterrupted["eval_summary"]["loss"] < uninterrupted["initial_eval"]["loss"] - 0.5
    best = Path(uninterrupted["best_checkpoint"])
    assert best.name == f"epoch=01-val_loss={uninterrupted['eval_summary']['loss']:.4f}.ckpt"
    assert Path(uninterrupted["dashboard"]["html"]).read_text().strip().startswith("<!DOCTYPE html>")
    folder = best.parent.parent.parent
    with ExperimentDB(folder / "experiments.db") as db:
        record = db.get_run("whole")
        metrics = db.get_metrics(record)
        assert record.status == "finished"
        assert record.facts["config_path"] == str(folder / "cfg.json")
        assert db.get_best_run("final_loss") == record
        assert [step for name, step in zip(metrics.name, metrics.step, strict=True) if name == "train_loss"] == list(range(1, 11))
        assert len(db.get_scores(record, "loss").values) == 15
        assert {artifact.kind for artifact in db.get_artifacts(record)} == {"dashboard", "checkpoint", "best_checkpoint"}
    monkeypatch.chdir(folder)
    assert main(["runs"]) == 0
    assert "whole  finished  lm_tiny" in capsys.readouterr().out


def kill_after(config: Path, checkpoint: Path, steps: int) -> int:
    """Kills a training once it has written some checkpoints; returns how far the last one got."""
    started = subprocess.Popen(
        command("--config", config, "--resume"), cwd=config.parent, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    seen: set[int] = set()
    while started.poll() is None and len(seen) < steps:
        if checkpoint.exists():
            seen.add(checkpoint.stat().st_ino)
        time.sleep(0.002)
    os.kill(started.pid, signal.SIGKILL)
    started.communicate()
    return int(torch.load(checkpoint, weights_only=True)["global_step"])


def test_killed_twice_and_resumed_it_ends_with_the_same_bits(uninterrupted: dict[str, Any], tmp_path: Path) -> None:
    config = write(tmp_path, checkpoint_every_n_steps=1)
    last = tmp_path / "checkpoints" / "cfg" / "last.ckpt"
    first = kill_after(config, last, 2)
    second = kill_after(config, last, 3)
    assert 0 < first < second < 10
    (last.parent / ".epoch=00-val_loss=9.9999.ckpt.partial").touch()  # as a kill leaves it that comes while the best is kept
    resumed = train_here(config, "--resume")
    assert same(resumed["last_checkpoint"], uninterrupted["last_checkpoint"])
    assert resumed["eval_summary"] == uninterrupted["eval_summary"]
    whole, again = (torch.load(path["last_checkpoint"], weights_only=True) for path in (uninterrupted, resumed))
    assert again["lr_schedulers"] == whole["lr_schedulers"]
    for name, state in whole["optimizer_states"][0]["state"].items():
        assert all(torch.equal(value, again["optimizer_states"][0]["state"][name][key]) for key, value in state.items())
    assert Path(resumed["best_checkpoint"]).name == Path(uninterrupted["best_checkpoint"]).name
    assert not list(last.parent.glob(".*partial"))


@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param((), id="strategy"),
        pytest.param(
            (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--no-python"),
            id="torchrun",
            marks=pytest.mark.long,
        ),
    ],
)
def test_two_processes_learn_as_one(launcher: tuple[str, ...], tmp_path: Path, uninterrupted: dict[str, Any]) -> None:
    devices = {} if launcher else {"devices": 2}
    found = train(write(tmp_path, strategy="ddp", batch_size=8, **devices), launcher=launcher)
    assert (found["strategy"], found["devices"], found["steps"]) == ("ddp", 2, uninterrupted["steps"])
    assert found["initial_eval"]["loss"] == pytest.approx(uninterrupted["initial_eval"]["loss"], rel=1e-6)
    # Dropout draws other masks in each process, so the two runs agree about as well as two seeds do.
    assert found["eval_summary"]["loss"] == pytest.approx(uninterrupted["eval_summary"]["loss"], rel=0.05)


@pytest.mark.long
def test_the_plain_loop_gives_the_same_model(
    uninterrupted: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lightning is made impossible to import, as where it is not installed; in this process, as nothing else depends on a new one."""
    monkeypatch.setitem(sys.modules, "lightning", None)
    monkeypatch.delitem(sys.modules, "harness.training.engines.lightning", raising=False)
    assert main(["train", "--json", "--quiet", "--config", str(write(tmp_path))]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["eval_summary"] == uninterrupted["eval_summary"]
    assert same(found["last_checkpoint"], uninterrupted["last_checkpoint"])


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"strategy": "dpp"}, "strategy"),
        ({"devices": [1, 1]}, "not a list of different GPU ids"),
        ({"precision": "16-mixed"}, "needs a GPU"),
        ({"resume_from_checkpoint": "lost.ckpt"}, "no such file"),
        ({"train": {"path": "empty.jsonl"}}, "the file is empty"),
        ({"train": {"path": "bad.jsonl"}}, "bad.jsonl:2: not JSON"),
        ({"train": {"path": "range.jsonl"}}, "range.jsonl:1: `input_ids` has 999 at position 2"),
        ({"log_to_db": True, "db_path": "postgresql://nobody@127.0.0.1:1/none"}, "127.0.0.1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_mistakes_are_one_line(keys: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "bad.jsonl").write_text('{"text": "a b c"}\n{"text": \n')
    (tmp_path / "range.jsonl").write_text('{"input_ids": [1, 2, 999]}\n')
    assert main(["train", "--json", "--config", str(write(tmp_path, **keys))]) == 2
    output, error = capsys.readouterr()
    assert said in error
    assert len(error.splitlines()) == 1
    assert json.loads(output)["status"] == "error"


def test_a_damaged_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write(tmp_path, checkpoint_every_n_steps=1)
    last = tmp_path / "checkpoints" / "cfg" / "last.ckpt"
    last.parent.mkdir(parents=True)
    last.write_bytes(b"PK\x03\x04 and no more")
    assert main(["train", "--config", str(config), "--resume"]) == 2
    assert "last.ckpt is cut short" in capsys.readouterr().err
    assert last.read_bytes() == b"PK\x03\x04 and no more"
