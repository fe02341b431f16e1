"""A sweep in one process: what is recorded, how trials are ordered, and what becomes of those that fail."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sweep_trials
from sweep_trials import BASE

from harness.config import SuiteConfig, TrainingConfig
from harness.errors import ConfigError
from harness.experiments import ExperimentDB, ExperimentError
from harness.sweeps import run_grid_sweep
from harness.sweeps.grid import SweepResult
from harness.sweeps.trials import TrialContext
from harness.training.run import build_configs_for_mode

Sweep = Callable[..., SweepResult]
GRID = {"learning_rate": [0.1, 0.01], "batch_size": [4, 8]}


def test_every_trial_is_a_run_with_its_place_in_the_sweep(sweep: Sweep, db: ExperimentDB) -> None:
    result = sweep(GRID, trial=sweep_trials.tiny_training)
    runs = {run.id: run for run in db.list_runs(sweep_id=result.sweep_id)}
    assert len(runs) == len(result.trials) == 4
    for trial in result.trials:
        run = runs[trial.run_id]
        assert (run.status, run.sweep_params, run.task) == ("finished", dict(trial.params), "lm_tiny")
        assert run.name == f"sweep-{result.sweep_id}-{trial.combination.number:03d}"
        assert db.get_configs(run)["suite"]["learning_rate"] == trial.params["learning_rate"]
        assert len(db.get_metrics(run, "train_loss")) == 20
        assert db.get_last_metrics([run], "val_loss") == [{"val_loss": trial.metrics["val_loss"]}]
    sweep_record = db.get_sweep(result.sweep_id)
    assert (sweep_record.name, sweep_record.status) == ("tests", "finished")
    assert sweep_record.space["grid"] == GRID


def test_a_trial_that_starts_no_run_gets_one(sweep: Sweep, db: ExperimentDB) -> None:
    result = sweep({"batch_size": [4, 8]})
    for trial in result.trials:
        assert db.get_last_metrics([trial.run_id])[0] == trial.metrics
        assert db.get_run(trial.run_id).status == "finished"


@pytest.mark.parametrize(("metric", "mode", "best"), [("val_loss", "min", 8), ("val_accuracy", "max", 4)])
def test_the_best_comes_first(sweep: Sweep, metric: str, mode: Any, best: int) -> None:
    result = sweep({"learning_rate": [0.01], "batch_size": [16, 8, 4]}, metric=metric, mode=mode)
    assert result.best is result.trials[0]
    assert result.best.params["batch_size"] == best
    values = [trial.metrics[metric] for trial in result.trials]
    assert values == sorted(values, reverse=mode == "max")
    assert result.status == "ok"


def test_a_metric_that_is_only_logged_will_do(sweep: Sweep) -> None:
    result = sweep({"learning_rate": [0.1, 0.001]}, trial=sweep_trials.tiny_training, metric="train_loss")
    assert result.best is not None
    assert result.best.params == {"learning_rate": 0.1}


def test_failed_trials_are_recorded_and_the_others_go_on(sweep: Sweep, db: ExperimentDB) -> None:
    result = sweep({"model_kwargs.do": ["fail", "work", "leave:3", "print:hello"]}, trial=sweep_trials.told)
    assert [trial.params["model_kwargs.do"] for trial in result.trials] == ["work", "print:hello", "fail", "leave:3"]
    assert result.status == "warn"
    failed = result.trials[2]
    assert failed.error is not None
    assert failed.error.startswith("ValueError: a rate like this (sweep_trials.py, line ")
    run = db.get_run(failed.run_id)
    assert (run.status, run.facts["error"]) == ("failed", failed.error)
    assert len(db.list_runs(sweep_id=result.sweep_id)) == 4
    table = result.table().splitlines()
    assert table[0].startswith("sweep 1 (tests): 4 trials, 2 failed; best val_loss 4 with model_kwargs.do=work (run ")
    assert table[2].split() == ["model_kwargs.do", "val_loss", "TOOK", "RUN", "STATUS", "ERROR"]
    assert table[3].startswith("*  work")
    assert "SystemExit: 3" in table[6]


def test_what_a_trial_prints_stays_off_stdout(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    sweep({"model_kwargs.do": ["print:hello"]}, trial=sweep_trials.told)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "hello\n")


def test_a_users_mistake_is_said_in_its_own_words(sweep: Sweep, db: ExperimentDB) -> None:
    result = sweep({"batch_size": [4]}, trial=sweep_trials.raises_before_its_run)
    assert result.trials[0].error == "train.jsonl, line 3: no text"
    assert db.get_run(result.trials[0].run_id).status == "failed"
    assert (result.best, result.status) == (None, "fail")
    assert db.get_sweep(result.sweep_id).status == "failed"
    assert "none has a finite val_loss" in result.table()


def test_a_trial_that_returns_no_metrics_failed(sweep: Sweep) -> None:
    error = sweep({"batch_size": [4]}, trial=sweep_trials.returns_nothing).trials[0].error
    assert error is not None
    assert "returns its metrics, numbers by name, and this one returned NoneType" in error


def test_what_is_not_finite_is_never_best(sweep: Sweep, tmp_path: Path) -> None:
    result = sweep({"batch_size": [4, 8]}, trial=sweep_trials.nothing_finite, mode="max")
    assert result.best is None
    assert [trial.status for trial in result.trials] == ["finished", "finished"]
    assert [str(trial.metrics["val_loss"]) for trial in result.trials] == ["inf", "nan"]
    data = json.loads((tmp_path / "sweep-1" / "sweep.json").read_text(), parse_constant=pytest.fail)
    assert [trial["metrics"]["val_loss"] for trial in data["trials"]] == ["inf", "nan"]


def test_a_wrong_metric_ends_the_sweep_at_the_first_trial_and_loses_nothing(sweep: Sweep, db: ExperimentDB) -> None:
    with pytest.raises(ExperimentError, match=r"no metric 'val_los'\. Did you mean 'val_loss'\? It has val_accuracy, val_loss"):
        sweep({"batch_size": [4, 8]}, metric="val_los")
    assert len(db.list_runs(sweep_id=1)) == 1
    result = sweep({"batch_size": [4, 8]}, resume=1)
    assert [trial.run_id for trial in sorted(result.trials, key=lambda trial: trial.combination.number)] == [1, 2]


def test_a_metric_that_only_some_have(sweep: Sweep) -> None:
    result = sweep({"batch_size": [4, 8]}, trial=sweep_trials.some_lack_the_metric, metric="val_f1", mode="max")
    assert [trial.status for trial in result.trials] == ["finished", "failed"]
    assert "has no metric 'val_f1'" in (result.trials[1].error or "")


def test_a_line_a_trial_on_stderr(sweep: Sweep, capsys: pytest.CaptureFixture[str], db_path: Path) -> None:
    sweep({"learning_rate": [0.01], "batch_size": [4, 8]}, progress=True)
    head, first, second = capsys.readouterr().err.splitlines()
    assert head == f"sweep 1 (tests): 2 trials one after another, recorded in {db_path}"
    assert first.startswith("trial 1/2  learning_rate=0.01 batch_size=4  val_loss 4  ")
    assert second.startswith("trial 2/2  learning_rate=0.01 batch_size=8  val_loss 0  ")


def test_the_csv_has_a_row_a_trial_in_the_order_of_the_table(sweep: Sweep, tmp_path: Path) -> None:
    result = sweep(
        {"learning_rate": [0.01], "batch_size": [4, 8], "model_kwargs.sizes": [[1, 2], "a,b"]}, output_dir=tmp_path / "out"
    )
    with (tmp_path / "out" / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["run_id"]) for row in rows] == [trial.run_id for trial in result.trials]
    assert (rows[0]["batch_size"], rows[0]["val_loss"], rows[0]["status"], rows[0]["error"]) == ("8", "0.0", "finished", "")
    assert {row["model_kwargs.sizes"] for row in rows} == {"[1, 2]", "a,b"}
    assert math.isclose(float(rows[2]["val_accuracy"]), 0.25)


def test_a_metric_with_the_name_of_a_key_does_not_hide_it(sweep: Sweep, tmp_path: Path) -> None:
    sweep({"learning_rate": [0.1]}, trial=sweep_trials.tiny_training, metric="learning_rate")
    head = (tmp_path / "sweep-1" / "sweep.csv").read_text().splitlines()[0]
    assert head.startswith("number,learning_rate,learning_rate (metric),val_loss,")


def test_the_config_may_be_a_file_a_config_or_a_mapping(tmp_path: Path, db_path: Path) -> None:
    seen: list[TrialContext] = []

    def look(trial: TrialContext) -> dict[str, float]:
        seen.append(trial)
        return {"val_loss": 0.0}

    file = tmp_path / "configs" / "model.json"
    file.parent.mkdir()
    file.write_text(json.dumps({**BASE, "$schema": "schema.json"}))
    for base in (file, str(file), SuiteConfig(**BASE), BASE):
        run_grid_sweep(base, {"batch_size": [4]}, db_path=db_path, trial=look, progress=False)
    assert [trial.config.path for trial in seen[:2]] == [file, file]
    assert [trial.config.batch_size for trial in seen] == [4] * 4
    assert [trial.config.run_name for trial in seen] == [f"sweep-{number}-001" for number in range(1, 5)]
    assert seen[3].config.path.parent == Path.cwd()
    assert {trial.config.devices for trial in seen} == {1}


def test_a_name_of_ones_own_and_a_folder_beside_the_database(sweep: Sweep, db: ExperimentDB, tmp_path: Path) -> None:
    result = sweep({"batch_size": [4]}, name="rates")
    assert (result.name, db.get_sweep(1).name) == ("rates", "rates")
    assert result.folder == tmp_path / "sweep-1"
    assert sorted(file.name for file in result.folder.glob("[!.]*")) == ["sweep.csv", "sweep.json", "sweep.png"]
    assert json.loads((result.folder / "sweep.json").read_text()) == result.to_json()


def test_an_open_database_and_a_training_config_as_the_guide_has_them(db: ExperimentDB) -> None:
    training_cfg, task_spec, eval_cfg = build_configs_for_mode("ABLATION_SWEEP", "cls_tiny")
    result = run_grid_sweep(
        training_cfg,
        {"learning_rate": [0.01, 0.001]},
        db=db,
        task_spec=task_spec,
        eval_cfg=eval_cfg,
        trial=sweep_trials.quick,
        progress=False,
    )
    assert result.folder == db.store.file.parent / f"sweep-{result.sweep_id}"
    stored = [db.get_configs(trial.run_id)["suite"] for trial in result.trials]  # the caller's database stays open
    assert {suite["learning_rate"] for suite in stored} == {0.01, 0.001}
    for suite in stored:
        assert (suite["task_name"], suite["task_type"], suite["epochs"]) == ("cls_tiny", "sequence_classification", 3)
        assert suite["num_classes"] == task_spec.num_classes
        assert suite["eval"]["batch_size"] == 64
        assert SuiteConfig.model_validate(suite).task_spec() == task_spec


def test_db_path_is_the_same_argument(db: ExperimentDB, db_path: Path) -> None:
    for given in ({"db": db}, {"db_path": db}, {"db": db_path}, {"db_path": str(db_path)}):
        run_grid_sweep(BASE, {"batch_size": [8]}, trial=sweep_trials.quick, progress=False, **given)
    assert len(db.list_runs()) == 4
    assert {path.name.partition("-")[0] for path in db_path.parent.iterdir() if path.is_dir()} == {"sweep"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"db": 3}, "`db` is an ExperimentDB, a path or a database URL, not int"),
        ({"db": "a.db", "db_path": "a.db"}, "two names for the same argument"),
        ({"base": 3}, "expected a config file, a mapping of config keys or a TrainingConfig to vary, got int"),
        ({"base": TrainingConfig()}, "a TrainingConfig does not say what is trained: give `task_spec`"),
        ({"base": TrainingConfig(), "task_spec": "lm_tiny"}, "`task_spec` is a TaskSpec, not str"),
        ({"eval_cfg": {"split": "test"}}, "`eval_cfg` is an EvalConfig, not dict"),
    ],
)
def test_an_argument_of_another_type_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as refused:
        run_grid_sweep(**{"base": BASE, "grid": {"batch_size": [8]}, "trial": sweep_trials.quick, **arguments})
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_an_object_is_no_path_of_a_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExperimentError, match="by its path or its URL, not by object"):
        ExperimentDB(object())  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
