"""Experiments: runs, and what is stored of them."""

from harness.errors import ExperimentError, MissingPackageError, UnknownRunError
from harness.experiments.database import ExperimentDB, log_profile_to_db
from harness.experiments.recorder import Rhythm
from harness.experiments.records import (
    ArtifactRecord,
    ComparisonRecord,
    MetricColumns,
    RunRecord,
    RunRef,
    RunTable,
    Scores,
    SweepPoint,
    SweepRecord,
    WindowRecord,
)
from harness.experiments.run import Run

__all__ = [
    "ArtifactRecord",
    "ComparisonRecord",
    "ExperimentDB",
    "ExperimentError",
    "MetricColumns",
    "MissingPackageError",
    "Rhythm",
    "Run",
    "RunRecord",
    "RunRef",
    "RunTable",
    "Scores",
    "SweepPoint",
    "SweepRecord",
    "UnknownRunError",
    "WindowRecord",
    "log_profile_to_db",
]
