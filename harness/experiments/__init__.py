"""Experiments: runs, and what is remembered of them."""

from harness.errors import MissingPackageError
from harness.experiments.database import ExperimentDB, get_profile, log_profile_to_db
from harness.experiments.errors import ExperimentError, UnknownRunError
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
)
from harness.experiments.run import Rhythm, Run

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
    "get_profile",
    "log_profile_to_db",
]
