"""Performance impact: does a model that sees drift become worse by it, as far as labels or its confidence tell?"""

from harness.monitoring.performance_impact.accuracy_estimate import (
    AccuracyEstimate,
    ConfidenceThreshold,
    estimate_accuracy,
    fit_threshold,
    negative_entropy,
)
from harness.monitoring.performance_impact.impact import ImpactFinding, PerformanceImpact
from harness.monitoring.performance_impact.ood_score import OodScore, fit_ood_score

__all__ = [
    "AccuracyEstimate",
    "ConfidenceThreshold",
    "ImpactFinding",
    "OodScore",
    "PerformanceImpact",
    "estimate_accuracy",
    "fit_ood_score",
    "fit_threshold",
    "negative_entropy",
]
