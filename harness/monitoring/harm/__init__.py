"""Harm: does a model that sees drift become worse by it, as far as can be told without labels?"""

from harness.monitoring.harm.confidence import negative_entropy
from harness.monitoring.harm.estimate import AccuracyEstimate, estimate_accuracy
from harness.monitoring.harm.familiarity import Familiarity, fit_familiarity
from harness.monitoring.harm.harm import Harm, HarmFinding, judge_with_harm
from harness.monitoring.harm.threshold import ConfidenceThreshold, fit_threshold

__all__ = [
    "AccuracyEstimate",
    "ConfidenceThreshold",
    "Familiarity",
    "Harm",
    "HarmFinding",
    "estimate_accuracy",
    "fit_familiarity",
    "fit_threshold",
    "judge_with_harm",
    "negative_entropy",
]
