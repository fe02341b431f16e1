"""What `modeltiers runs` answers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from harness.cli import main
from harness.config import load_config
from harness.experiments import ExperimentDB, ExperimentError, Rhythm
from harness.experiments.command import answer, run_details, runs_table
from harness.training.run import summary_of, text_of, train_config


@pytest.fixture
def filled(db: ExperimentDB, tmp_path: Path) -> ExperimentDB:
    (tmp_path / "weights").write_bytes(b"abc")
    with db.start_run("good", config={"rate": 0.1}, task_spec={"task_name": "lm_tiny"}, tags=["fast"]) as good:
        good.log_metrics({"loss": 0.123456789, "accuracy": 1.0}, step=0)
        good.log_artifact(tmp_path / "weights", "weights")
    with db.start_run("diverged") as diverged:
        diverged.log_metric("loss", math.nan)
    db.set_name("production", good)
    db.log_comparison(good, diverged, "loss", {"p": math.nan})
    return db


def test_a_line_a_run_with_the_metric_asked_for(filled: ExperimentDB) -> None:
    found = runs_table(filled, metric="loss")
    head, newest, oldest = found.text.splitlines()
    assert head.split() == ["ID", "NAME", "STATUS", "TASK", "STARTED", "TOOK", "loss"]
    assert newest.split()[:3] == ["2", "diverged", "finished"]
    assert newest.endswith("     nan")
    assert oldest.endswith("0.123457")
    assert len(head) == len(newest) == len(oldest)
    assert [run["metrics"] for run in found.data["runs"]] == [{"loss": "nan"}, {"loss": 0.123456789}]
    assert json.loads(json.dumps(found.data, allow_nan=False)) == found.data


def test_runs_by_name_and_no_more_than_a_screenful(filled: ExperimentDB) -> None:
    assert [run["name"] for run in runs_table(filled, name="good").data["runs"]] == ["good"]
    assert runs_table(filled, name="nobody").text == "no runs"
    assert runs_table(filled, name="nobody").data == {"runs": []}
    assert runs_table(filled, limit=1).text.endswith("\n… older runs are not shown")
    assert "metrics" not in runs_table(filled).data["runs"][0]


def test_the_details_of_a_run(filled: ExperimentDB) -> None:
    found = run_details(filled, "production")
    for line in ("status    finished", "known as  production", "training.rate   0.1", "loss      0.123457", "weights, 3 bytes"):
        assert line in found.text
    run = found.data["run"]
    assert (run["name"], run["names"], run["configs"]["training"]) == ("good", ["production"], {"rate": 0.1})
    assert run["metrics"] == {"accuracy": 1.0, "loss": 0.123456789}
    assert run["comparisons"][0]["result"] == {"p": "nan"}
    assert json.loads(json.dumps(found.data, allow_nan=False)) == found.data


def test_a_killed_run_is_shown_as_such(filled: ExperimentDB) -> None:
    run = filled.start_run("lost")
    reader = ExperimentDB(filled.store.url.render_as_string(hide_password=False), Rhythm(grace_seconds=0))
    assert runs_table(reader, name="lost").data["runs"][0]["status"] == "killed"
    run.finish()


def test_asking_about_a_database_does_not_make_it(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"typo\.db: no such database"):
        answer(tmp_path / "typo.db")
    assert list(tmp_path.iterdir()) == []


def test_one_function_for_the_command_line(filled: ExperimentDB) -> None:
    address = filled.store.url.render_as_string(hide_password=False)
    assert answer(address, metric="loss").data == runs_table(filled, metric="loss").data
    assert answer(address, "production").text == run_details(filled, "production").text


def test_training_says_where_its_run_is_and_the_command_that_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The config lies in another folder than the shell, as in ``modeltiers train --config examples/x.json``."""
    (tmp_path / "examples").mkdir()
    config = tmp_path / "examples" / "x.json"
    keys = {"task_name": "lm_tiny", "log_to_db": True, "run_name": "first", "train": {"max_eval_examples": 8}, "batch_size": 8}
    config.write_text(json.dumps({**keys, "eval": {"dataset_id": "lm_tiny_v1", "max_eval_examples": 4}}), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    results = train_config(load_config(Path("examples/x.json")), progress=False)
    said = dict(line.split(": ", 1) for line in text_of(results).splitlines() if ": " in line)
    assert said["run"] == f"1 in {tmp_path / 'examples' / 'experiments.db'}"
    assert said["to see it"] == "modeltiers runs 1 --config examples/x.json"
    assert main(said["to see it"].split()[1:]) == 0
    assert "1 first" in capsys.readouterr().out
    assert main(["runs", "--config", "examples/x.json"]) == 0
    assert "first" in capsys.readouterr().out
    assert main(["runs"]) == 2
    assert "modeltiers runs --config FILE" in capsys.readouterr().err
    summary = summary_of(results)
    assert (summary["run_id"], summary["see"]) == (1, "modeltiers runs 1 --config examples/x.json")
