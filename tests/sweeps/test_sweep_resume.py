"""A sweep that stopped continues: what is done is not done again, and a sweep of something else is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sweep_trials
from filelock import FileLock
from sweep_trials import BASE

from harness.experiments import ExperimentDB, ExperimentError, SweepPoint
from harness.sweeps import run_grid_sweep
from harness.sweeps.grid import SweepResult
from harness.sweeps.trials import TrialContext

Sweep = Callable[..., SweepResult]
GRID = {"learning_rate": [0.01], "batch_size": [4, 8, 16]}


class Counting:
    """The quick trial, which remembers the batch sizes it was run with, and fails where it is told to."""

    def __init__(self, fails: tuple[int, ...] = ()) -> None:
        self.seen: list[int] = []
        self.fails = fails

    def __call__(self, trial: TrialContext) -> dict[str, float]:
        self.seen.append(trial.config.batch_size)
        if trial.config.batch_size in self.fails:
            raise RuntimeError("not today")
        return sweep_trials.quick(trial)


def test_an_interrupted_sweep_goes_on(sweep: Sweep, db: ExperimentDB, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        sweep(GRID, trial=sweep_trials.interrupts_itself, progress=True)
    assert "sweep 1 was stopped after 1 of 3 trials; resume=1 continues it" in capsys.readouterr().err
    assert db.get_sweep(1).status == "killed"
    assert [run.status for run in db.list_runs(sweep_id=1)] == ["killed", "finished"]
    assert len((tmp_path / "sweep-1" / "sweep.csv").read_text().splitlines()) == 2
    trial = Counting()
    result = sweep(GRID, trial=trial, resume=1)
    assert trial.seen == [8, 16]
    assert (len(result.trials), result.status) == (3, "ok")
    assert db.get_sweep(1).status == "finished"


def test_failed_trials_are_tried_again(sweep: Sweep) -> None:
    first = sweep(GRID, trial=Counting(fails=(8,)))
    assert len(first.failed) == 1
    again = Counting()
    result = sweep(GRID, trial=again, resume=first.sweep_id)
    assert again.seen == [8]
    assert not result.failed
    assert result.best is not None
    assert result.best.params["batch_size"] == 8


def test_a_sweep_that_is_done_only_says_so(sweep: Sweep) -> None:
    first = sweep(GRID)
    trial = Counting()
    result = sweep(GRID, trial=trial, resume=first.sweep_id)
    assert trial.seen == []
    assert result.trials == first.trials


def test_of_two_finished_runs_the_newest_counts(sweep: Sweep, db: ExperimentDB) -> None:
    first = sweep(GRID)
    params = {"batch_size": 16, "learning_rate": 0.01}
    with db.start_run("again", sweep=SweepPoint(first.sweep_id, params)) as run:
        run.log_metrics({"val_loss": -1.0})
    result = sweep(GRID, resume=first.sweep_id)
    assert result.best is not None
    assert (result.best.run_id, result.best.metrics) == (run.id, {"val_loss": -1.0})


def test_the_order_of_keys_and_values_does_not_matter(sweep: Sweep) -> None:
    first = sweep(GRID)
    result = sweep({"batch_size": [16, 4, 8], "learning_rate": [1e-2]}, resume=first.sweep_id)
    assert result.trials == first.trials


@pytest.mark.parametrize(
    ("base", "grid", "differs"),
    [
        (BASE, {**GRID, "batch_size": [4, 8]}, "grid `batch_size`: the sweep has [16, 4, 8], and here it is [4, 8]"),
        (BASE, {**GRID, "seed": [1]}, "grid `seed`: the sweep does not have it, and here it is [1]"),
        (BASE, {"batch_size": [4, 8, 16]}, "grid `learning_rate`: the sweep has [0.01], and here it is missing"),
        ({**BASE, "epochs": 9}, GRID, "config `epochs`: the sweep does not have it, and here it is 9"),
        ({**BASE, "learning_rate": 0.2}, GRID, "config `learning_rate`: the sweep has 0.1, and here it is 0.2"),
    ],
)
def test_another_sweep_is_refused_with_what_differs(
    sweep: Sweep, db_path: Path, base: dict[str, Any], grid: dict[str, Any], differs: str
) -> None:
    sweep(GRID)
    with pytest.raises(ExperimentError, match=f"started with another config or grid.*\n  {re.escape(differs)}$"):
        run_grid_sweep(base, grid, db_path=db_path, trial=sweep_trials.quick, resume=1, progress=False)


def test_no_such_sweep(sweep: Sweep, tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="no such database"):
        sweep(GRID, resume=1)
    assert list(tmp_path.iterdir()) == []
    sweep(GRID)
    with pytest.raises(ExperimentError, match="no sweep 7"):
        sweep(GRID, resume=7)


def test_a_sweep_of_another_kind_is_refused(sweep: Sweep, db: ExperimentDB) -> None:
    sweep_id = db.start_sweep("random", {"learning_rate": "loguniform"})
    with pytest.raises(ExperimentError, match="is not a grid sweep"):
        sweep(GRID, resume=sweep_id)


def test_two_processes_do_not_run_one_sweep(sweep: Sweep, tmp_path: Path) -> None:
    sweep(GRID)
    with FileLock(tmp_path / "sweep-1" / ".lock"), pytest.raises(ExperimentError, match="is being run by another process"):
        sweep(GRID, resume=1)


def test_runs_of_a_process_that_is_gone_are_closed(sweep: Sweep, db: ExperimentDB) -> None:
    sweep(GRID)
    lost = db.start_run("lost", sweep=SweepPoint(1, {"batch_size": 4, "learning_rate": 0.01}))
    assert db.get_run(lost).status == "running"
    sweep(GRID, resume=1)
    assert db.get_run(lost).status == "killed"
    lost.finish()
