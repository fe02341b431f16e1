"""The room by itself: what it imports, and what it needs for MLflow."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from harness.cli import main
from harness.experiments import ExperimentDB, MissingPackageError
from harness.experiments.command import export_to_mlflow


def test_importing_the_room_brings_neither_torch_nor_numpy() -> None:
    code = "import harness.experiments, sys; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_database_opened_again_after_it_was_closed(db: ExperimentDB) -> None:
    db.close()
    with db.start_run() as run:
        pass
    assert db.get_run(run).status == "finished"


def test_without_mlflow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    db = ExperimentDB(tmp_path / "e.db")
    with db.start_run() as run:
        pass
    with pytest.raises(MissingPackageError, match=r"pip install 'pytest-modeltiers\[mlflow\]'"):
        export_to_mlflow(db, run, "sqlite:///mlflow.db")


def test_the_command_copies_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With a double for MLflow; the test below asks the real one."""
    db = ExperimentDB(tmp_path / "e.db")
    with db.start_run("first", config={"rate": 0.1}) as run:
        run.log_metric("loss", 0.5, step=3)
    client = MagicMock()
    client.create_run.return_value.info.run_id = "abc"
    double = MagicMock(MlflowClient=MagicMock(return_value=client))
    double.exceptions.MlflowException = RuntimeError
    monkeypatch.setitem(sys.modules, "mlflow", double)
    command = ["runs", "--db", str(tmp_path / "e.db"), "--to-mlflow", "http://mlflow"]
    assert main([*command, "first", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run_id": 1, "mlflow_run_id": "abc", "tracking_uri": "http://mlflow"}
    double.entities.Param.assert_called_once_with("training.rate", "0.1")
    assert double.entities.Metric.call_args.args[:2] == ("loss", 0.5)
    assert main(command) == 2
    assert "--to-mlflow copies one run" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed")
def test_a_run_in_mlflow(tmp_path: Path) -> None:
    import mlflow

    (tmp_path / "weights").write_bytes(b"abc")
    db = ExperimentDB(tmp_path / "e.db")
    with db.start_run("first", config={"rate": 0.1}, task_spec={"task_name": "lm_tiny"}, facts={"sha256": "ab"}) as run:
        for step in range(2500):
            run.log_metrics({"loss@1": step / 7, "nan": float("nan")}, step=step)
        run.log_metric("bare", 1.0)
        run.log_metric("bare", 2.0)
        run.log_artifact(tmp_path / "weights")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = mlflow.MlflowClient(tracking_uri=uri)
    client.create_experiment("lm_tiny", artifact_location=(tmp_path / "artifacts").as_uri())
    copied = client.get_run(export_to_mlflow(db, run, uri))
    assert copied.info.status == "FINISHED"
    assert copied.info.run_name == "first"
    assert copied.data.params == {"training.rate": "0.1", "task.task_name": "lm_tiny"}
    assert copied.data.tags["fact.sha256"] == "ab"
    history = client.get_metric_history(copied.info.run_id, "loss_1")
    assert sorted((point.step, point.value) for point in history) == [(step, step / 7) for step in range(2500)]
    assert [point.step for point in client.get_metric_history(copied.info.run_id, "bare")] == [0, 1]
    assert [file.path for file in client.list_artifacts(copied.info.run_id)] == ["weights"]
