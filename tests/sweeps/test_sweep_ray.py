"""Trials as Ray tasks, on a local Ray."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sweep_trials
from sweep_script import Script, is_there, resumed, until

from harness.experiments import ExperimentDB, ExperimentError, MissingPackageError
from harness.sweeps.grid import SweepResult

Sweep = Callable[..., SweepResult]


def test_without_ray_the_message_says_what_to_install(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"needs Ray, not installed here: pip install 'pytest-modeltiers\[ray\]'"):
        sweep({"batch_size": [4]}, executor="ray")


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A local Ray of two cores, for all the tests."""
    module = pytest.importorskip("ray")
    module.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield module
    module.shutdown()


def test_tasks_find_what_one_process_finds(sweep: Sweep, db_path: Path, ray: Any) -> None:
    grid = {"learning_rate": [0.1, 0.01], "batch_size": [4, 8]}
    alone = sweep(grid, trial=sweep_trials.tiny_training)
    shared = sweep(grid, trial=sweep_trials.tiny_training, executor="ray", workers=2)
    assert [(trial.params, trial.metrics) for trial in shared.trials] == [(trial.params, trial.metrics) for trial in alone.trials]
    db = ExperimentDB(db_path)
    assert {run.status for run in db.list_runs(sweep_id=shared.sweep_id)} == {"finished"}
    assert {values["threads"] for values in db.get_last_metrics([trial.run_id for trial in shared.trials])} == {1}
    assert ray.is_initialized()


def test_a_task_that_dies_takes_only_its_own_trial_with_it(sweep: Sweep, db_path: Path, ray: Any) -> None:
    result = sweep({"model_kwargs.do": ["kill", "fail", "work"]}, trial=sweep_trials.told, executor="ray", workers=1)
    errors = {trial.params["model_kwargs.do"]: trial.error for trial in result.trials}
    assert errors["work"] is None
    assert (errors["kill"] or "").startswith("its Ray task was lost: ")
    assert (errors["fail"] or "").startswith("ValueError: a rate like this (sweep_trials.py, line ")
    assert sorted(run.status for run in ExperimentDB(db_path).list_runs(sweep_id=1)) == ["failed", "failed", "finished"]


def test_a_trial_that_is_no_module_s_will_do(sweep: Sweep, ray: Any) -> None:
    assert sweep({"batch_size": [4]}, trial=lambda trial: {"val_loss": 1.5}, executor="ray").best is not None


def test_a_cluster_that_cannot_be_reached(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("ray")

    def fails(**_options: Any) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(module, "is_initialized", lambda: False)
    monkeypatch.setattr(module, "init", fails)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ExperimentError, match=r"10\.0\.0\.1:6379 cannot be reached or started: Could not find any"):
        sweep({"batch_size": [4]}, executor="ray")


def test_a_sweep_that_starts_its_own_ray_is_stopped_cleanly_and_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    script = Script(tmp_path, "ray")
    with script.start() as running:
        workers = script.wait_for({2, 4, 8, 16})
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=120)
    until(lambda: not any(map(is_there, workers)))
    assert "sweep 1 was stopped after 2 of 4 trials; resume=1 continues it" in said
    assert sorted(run.status for run in script.db.list_runs(sweep_id=1)) == ["finished", "finished", "killed", "killed"]
    script.go.touch()
    assert len(resumed(script).trials) == 4
