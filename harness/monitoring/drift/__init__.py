"""Drift: do two profiles come from the same distribution, and does the difference matter?"""

from harness.monitoring.drift.compare import compare_profiles
from harness.monitoring.drift.report import DriftReport, FeatureDrift, judge_differences
from harness.monitoring.drift.verdict import Finding, Verdict
from harness.monitoring.options import DriftOptions, Floors
from harness.monitoring.statistics.difference import Difference

__all__ = [
    "Difference",
    "DriftOptions",
    "DriftReport",
    "FeatureDrift",
    "Finding",
    "Floors",
    "Verdict",
    "compare_profiles",
    "judge_differences",
]
