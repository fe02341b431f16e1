"""Sweeps: a config trained for every combination of some of its values, here, in processes or on a Ray cluster."""

from harness.sweeps.result import SweepResult, TrialResult
from harness.sweeps.run import run_grid_sweep
from harness.sweeps.trials import Trial, TrialContext, train_trial

__all__ = ["SweepResult", "Trial", "TrialContext", "TrialResult", "run_grid_sweep", "train_trial"]
