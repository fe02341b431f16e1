"""The verdict on a candidate by several scores together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.evidence import Evidence, Status
from harness.monitoring.gate.comparison import Comparison


@dataclass(frozen=True)
class Comparisons:
    """A candidate against a baseline by several scores, corrected together.

    Attributes:
        metrics: A comparison a score.
    """

    metrics: tuple[Comparison, ...]

    def __getitem__(self, metric: str) -> Comparison:
        found = next((comparison for comparison in self.metrics if comparison.metric == metric), None)
        if found is None:
            raise KeyError(metric)
        return found

    @property
    def status(self) -> Status:
        """The worst of the verdicts."""
        return max((comparison.status for comparison in self.metrics), key=lambda status: status.severity)

    @property
    def message(self) -> str:
        """The sentences of the scores that decide the status."""
        return "\n".join(comparison.message for comparison in self.metrics if comparison.status is self.status)

    def evidence(self) -> tuple[Evidence, ...]:
        """Evidence a score."""
        return tuple(comparison.evidence() for comparison in self.metrics)

    def to_json(self) -> dict[str, Any]:
        """The comparisons as JSON-ready values."""
        return {
            "status": self.status.value,
            "message": self.message,
            "metrics": {comparison.metric: comparison.to_json() for comparison in self.metrics},
        }
