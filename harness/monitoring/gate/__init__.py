"""The gate: is a candidate worse than a baseline, by scores of the same samples?"""

from harness.monitoring.gate.baseline import compare_with_baseline
from harness.monitoring.gate.compare import compare_all_scores, compare_scores
from harness.monitoring.gate.comparison import Comparison, Finding
from harness.monitoring.gate.comparisons import Comparisons
from harness.monitoring.gate.errors import ComparisonError
from harness.monitoring.gate.looks import Looks

__all__ = [
    "Comparison",
    "ComparisonError",
    "Comparisons",
    "Finding",
    "Looks",
    "compare_all_scores",
    "compare_scores",
    "compare_with_baseline",
]
