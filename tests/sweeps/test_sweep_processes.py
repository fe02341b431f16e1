"""Trials in processes: that they are shared out, and what becomes of processes that die or are stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import sweep_trials
from sweep_script import Script, is_there, resumed, until

from harness.experiments import ExperimentDB, ExperimentError
from harness.sweeps.grid import SweepResult
from harness.sweeps.worker import cores, environment, share

Sweep = Callable[..., SweepResult]

needs_signals = pytest.mark.skipif(not hasattr(os, "killpg"), reason="the system has no process groups")


def test_processes_find_what_one_process_finds(sweep: Sweep, db_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    grid = {"learning_rate": [0.1, 0.01, 0.001], "batch_size": [4, 8]}
    alone = sweep(grid, trial=sweep_trials.tiny_training)
    shared = sweep(grid, trial=sweep_trials.tiny_training, executor="processes", workers=2)
    assert [(trial.params, trial.metrics) for trial in shared.trials] == [(trial.params, trial.metrics) for trial in alone.trials]
    logged = ExperimentDB(db_path).get_last_metrics([trial.run_id for trial in shared.trials])
    processes = {values["process"] for values in logged}
    assert 1 <= len(processes) <= 2
    assert os.getpid() not in processes
    assert {values["threads"] for values in logged} == {max(1, cores() // 2)}


@needs_signals
def test_a_process_that_dies_takes_only_its_own_trial_with_it(sweep: Sweep, db_path: Path) -> None:
    grid = {"model_kwargs.do": ["kill", "exit:3", "fail", "work"]}
    result = sweep(grid, trial=sweep_trials.told, executor="processes", workers=2)
    errors = {trial.params["model_kwargs.do"]: trial.error for trial in result.trials}
    assert errors["work"] is None
    assert errors["kill"] == "its process was killed by SIGKILL (out of memory?) in the middle of the trial"
    assert errors["exit:3"] == "its process ended with status 3 in the middle of the trial"
    assert (errors["fail"] or "").startswith("ValueError: a rate like this (sweep_trials.py, line ")
    db = ExperimentDB(db_path)
    for trial in result.failed:
        run = db.get_run(trial.run_id)
        assert (run.status, run.facts["error"]) == ("failed", trial.error)
        assert db.get_last_metrics([run], "train_loss") == [{"train_loss": 1.0}]


@needs_signals
@pytest.mark.parametrize("sent", ["SIGINT", pytest.param("SIGKILL", marks=pytest.mark.long)])
def test_a_stopped_sweep_leaves_nobody_behind_and_goes_on(tmp_path: Path, sent: str) -> None:
    script = Script(tmp_path, "processes")
    with script.start() as running:
        workers = script.wait_for({2, 4, 8, 16})
        os.killpg(running.pid, signal.Signals[sent])  # as a terminal sends Ctrl-C: to the whole group
        _, said = running.communicate(timeout=120)
    until(lambda: not any(map(is_there, workers)))
    assert sorted(run.status for run in script.db.list_runs(sweep_id=1)) == ["finished", "finished", "killed", "killed"]
    assert script.db.get_sweep(1).status == ("killed" if sent == "SIGINT" else "running")
    assert ("sweep 1 was stopped after 2 of 4 trials; resume=1" in said) == (sent == "SIGINT")
    assert running.returncode != 0

    script.go.touch()
    result = resumed(script)
    assert (len(result.trials), result.status) == (4, "ok")
    assert [size for size, _ in script.begun()].count(2) == 1
    assert sorted(size for size, process in script.begun() if process == os.getpid()) == [8, 16]


def test_a_sweep_in_one_process_that_was_killed_goes_on(tmp_path: Path) -> None:
    script = Script(tmp_path, "inline")
    with script.start() as running:
        script.wait_for({2, 4, 8})
        running.kill()
    assert [run.status for run in script.db.list_runs(sweep_id=1)] == ["running", "finished", "finished"]
    script.go.touch()
    assert len(resumed(script).trials) == 4
    assert sorted(run.status for run in script.db.list_runs(sweep_id=1)) == ["finished"] * 4 + ["killed"]


def test_a_script_without_a_main_guard_is_told_so(tmp_path: Path) -> None:
    with Script(tmp_path, "processes", unguarded=True).start() as running:
        _, said = running.communicate(timeout=120)
    assert running.returncode == 1
    assert 'it needs `if __name__ == "__main__":` around what it runs' in said
    assert ExperimentDB(tmp_path / "experiments.db").get_sweep(1).status == "failed"
    with pytest.raises(ExperimentError, match="no sweep 2"):
        ExperimentDB(tmp_path / "experiments.db").get_sweep(2)


@pytest.mark.long
def test_a_trial_that_other_processes_cannot_load(sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "only_here.py").write_text(
        "import multiprocessing\nassert multiprocessing.parent_process() is None\ndef trial(t): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import only_here  # type: ignore[import-not-found]

    result = sweep({"batch_size": [4]}, trial=only_here.trial, executor="processes", workers=1)
    assert "cannot be loaded in another process: AssertionError" in (result.trials[0].error or "")


def test_cores_and_gpus_are_shared_out() -> None:
    assert share(0, 2, 8, []) == {"OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "4"}
    assert share(0, 4, 2, ["0"])["OMP_NUM_THREADS"] == "1"
    assert "CUDA_VISIBLE_DEVICES" not in share(0, 4, 2, ["0"])
    assert [share(worker, 2, 8, ["0", "1", "5"])["CUDA_VISIBLE_DEVICES"] for worker in range(2)] == ["0,5", "1"]
    assert [share(worker, 4, 8, ["3", "7"])["CUDA_VISIBLE_DEVICES"] for worker in range(4)] == ["3", "7", "3", "7"]


def test_a_number_of_threads_that_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with environment(share(0, 2, 8, ["0", "1"])):
        assert (os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]) == ("3", "4")
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert "MKL_NUM_THREADS" not in os.environ
