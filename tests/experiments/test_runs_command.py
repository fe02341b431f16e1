"""What `modeltiers runs` answers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from harness.experiments import ExperimentDB, ExperimentError, Rhythm
from harness.experiments.command import answer, run_details, runs_table


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
    assert runs_table(filled, limit=1).text.endswith("\n… and older ones")
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
