"""A script that runs a sweep, to be stopped in the middle of it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import sweep_trials
from sweep_trials import BASE

from harness.experiments import ExperimentDB
from harness.sweeps import run_grid_sweep
from harness.sweeps.grid import SweepResult

SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
import sweep_trials
from harness.sweeps import run_grid_sweep

if __name__ == "__main__" or {unguarded!r}:
    run_grid_sweep(
        {base!r}, {{"batch_size": [2, 4, 8, 16]}}, db_path={db_path!r}, trial=sweep_trials.once_told, executor={executor!r},
        workers={workers!r},
    )
"""


class Script:
    """A script that runs a sweep of four trials, of which the last two do not end until the file ``go`` is there."""

    def __init__(self, folder: Path, executor: str, unguarded: bool = False) -> None:
        self.log, self.go, self.db_path = folder / "log", folder / "go", folder / "experiments.db"
        self.base = {**BASE, "model_kwargs": {"log": str(self.log), "go": str(self.go)}}
        self._file = folder / "script.py"
        self._file.write_text(
            SCRIPT.format(
                folder=str(Path(__file__).parent),
                base=self.base,
                db_path=str(self.db_path),
                executor=executor,
                workers=None if executor == "inline" else 2,
                unguarded=unguarded,
            )
        )

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, str(self._file)], stderr=subprocess.PIPE, text=True, start_new_session=True)

    def wait_for(self, sizes: set[int]) -> set[int]:
        """Waits until trials of these batch sizes have begun and their runs are there; returns the processes they run in."""
        until(lambda: self.log.exists() and sizes <= {size for size, _ in self.begun()})
        until(lambda: len(self.db.list_runs(sweep_id=1)) >= len(sizes))
        return {process for _, process in self.begun()}

    @cached_property
    def db(self) -> ExperimentDB:
        return ExperimentDB(self.db_path)

    def begun(self) -> list[tuple[int, int]]:
        """Batch size and process of every trial that was begun."""
        return [(int(size), int(process)) for size, process in (line.split() for line in self.log.read_text().splitlines())]


def until(holds: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


def is_there(process: int) -> bool:
    """Whether a process lives; one that is dead and that nobody has asked after is not there."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def resumed(script: Script) -> SweepResult:
    """Goes on with the sweep of a script, in this process."""
    grid = {"batch_size": [2, 4, 8, 16]}
    return run_grid_sweep(script.base, grid, db_path=script.db_path, trial=sweep_trials.once_told, resume=1, progress=False)
