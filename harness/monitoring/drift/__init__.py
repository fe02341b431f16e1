"""Drift: do two profiles come from the same distribution, and does the difference matter?"""

from harness.monitoring.difference import Difference
from harness.monitoring.drift.report import DriftReport, FeatureDrift, compare_profiles, judge_differences
from harness.monitoring.drift.verdict import Finding, Verdict
from harness.monitoring.options import DriftOptions, Floors

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
