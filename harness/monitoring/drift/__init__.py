"""Drift: do two profiles, or two sets of rows, come from the same distribution, and does the difference matter?"""

from harness.monitoring.drift.compare import compare_profiles
from harness.monitoring.drift.difference import Difference
from harness.monitoring.drift.embeddings import compare_embeddings, most_shifted
from harness.monitoring.drift.finding import Finding
from harness.monitoring.drift.floors import DEFAULT_FLOORS, Floors
from harness.monitoring.drift.report import DriftReport, FeatureDrift, judge_differences
from harness.monitoring.drift.softmax import compare_softmax
from harness.monitoring.drift.verdict import Verdict

__all__ = [
    "DEFAULT_FLOORS",
    "Difference",
    "DriftReport",
    "FeatureDrift",
    "Finding",
    "Floors",
    "Verdict",
    "compare_embeddings",
    "compare_profiles",
    "compare_softmax",
    "judge_differences",
    "most_shifted",
]
