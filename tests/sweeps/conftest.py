"""A database for the sweeps of a test."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from sweep_trials import BASE, quick

from harness.experiments import ExperimentDB
from harness.sweeps import run_grid_sweep
from harness.sweeps.grid import SweepResult


@pytest.fixture
def db_path(tmp_path: Path) -> Path:
    return tmp_path / "experiments.db"


@pytest.fixture
def db(db_path: Path) -> ExperimentDB:
    return ExperimentDB(db_path)


@pytest.fixture
def sweep(db_path: Path) -> Callable[..., SweepResult]:
    """``run_grid_sweep`` of the quick trial, in silence."""
    return partial(run_grid_sweep, BASE, db_path=db_path, trial=quick, progress=False)
