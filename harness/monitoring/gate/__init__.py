"""The gate: is a candidate worse than a baseline, by scores of the same samples?"""

from harness.monitoring.errors import ComparisonError
from harness.monitoring.gate.alpha_spending import AlphaSpending
from harness.monitoring.gate.baseline import compare_with_baseline
from harness.monitoring.gate.compare import compare_all_scores, compare_scores
from harness.monitoring.gate.comparison import Comparison, Comparisons, Finding

__all__ = [
    "AlphaSpending",
    "Comparison",
    "ComparisonError",
    "Comparisons",
    "Finding",
    "compare_all_scores",
    "compare_scores",
    "compare_with_baseline",
]
