"""What the checks of one model came to: their score, their grade, their causes, and what to do."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

from harness.health.checks import Cause, CheckResult, CheckStatus, SkippedCheck, causes_of

_GRADES = {"A": 95, "B": 80, "C": 60}
"""The least score of each grade."""

_ORDER: tuple[CheckStatus, ...] = ("failed", "warning", "passed")


@dataclass
class HealthResults:
    """The checks of one model.

    Attributes:
        model_name: Name for people.
        model_facts: Facts for the report's head, label to text.
        coverage: How much of the suite ran, as a sentence; empty when all of it did.
        is_selection: Whether tests of the suite were left out, so that no grade can be given.
        skipped: Checks that did not run, with the reason.
        layers: Per-parameter facts for the plots: ``{"name", "shape", "count", "mean", "std", "rms", "grad_rms", "trainable"}``.
    """

    model_name: str
    timestamp: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    checks: list[CheckResult] = field(default_factory=list)
    skipped: list[SkippedCheck] = field(default_factory=list)
    model_facts: dict[str, str] = field(default_factory=dict)
    coverage: str = ""
    layers: list[dict[str, Any]] = field(default_factory=list)
    is_selection: bool = False

    def add_check(self, check: CheckResult) -> None:
        """Adds a check."""
        self.checks.append(check)

    def get_failed_checks(self) -> list[CheckResult]:
        """The checks that failed."""
        return [check for check in self.checks if check.status == "failed"]

    def worst_first(self) -> list[CheckResult]:
        """The checks, failures first, then warnings, otherwise in the order they were added."""
        return sorted(self.checks, key=lambda check: _ORDER.index(check.status))

    @property
    def summary(self) -> dict[str, int]:
        """How many checks there are of each status."""
        count = {status: sum(check.status == status for check in self.checks) for status in _ORDER}
        return {"total": len(self.checks), "passed": count["passed"], "warnings": count["warning"], "failed": count["failed"]}

    @property
    def health_score(self) -> float:
        """``(passed + 0.5 * warnings) / total * 100``, one decimal; 0 when nothing was checked."""
        counts = self.summary
        return round((counts["passed"] + 0.5 * counts["warnings"]) / counts["total"] * 100, 1) if counts["total"] else 0.0

    @property
    def grade(self) -> str:
        """``A`` to ``F``; empty when nothing was checked, or only a selection.

        The score's letter (A from 95, B from 80, C from 60, else D), but no better than the worst finding allows: B with a warning, D
        with a failure, F with a failure of a critical property.
        """
        if not self.checks or self.is_selection:
            return ""
        if self.fails_critically:
            return "F"
        worst = "D" if self.get_failed_checks() else "B" if self.summary["warnings"] else "A"
        by_score = next((letter for letter, least in _GRADES.items() if self.health_score >= least), "D")
        return max(worst, by_score)

    @property
    def fails_critically(self) -> bool:
        """Whether a critical property failed: one of tier 1, or a check that belongs to no tier."""
        return any(check.details.get("tier", 1) == 1 for check in self.get_failed_checks())

    @property
    def causes(self) -> list[Cause]:
        """What failed or warned, one entry a bug, failures first; see ``harness.health.checks``."""
        return causes_of(self.checks)

    @property
    def all_passed(self) -> bool:
        """Whether something was checked and nothing failed."""
        return bool(self.checks) and not self.get_failed_checks()

    @property
    def recommendations(self) -> list[str]:
        """What to do, once each, worst first; the last one is to review the warnings, where there are any."""
        warned = [f"`{check.check_name}`" for check in self.checks if check.status == "warning"]
        found = [check.recommendation for check in self.worst_first() if check.recommendation]
        return list(dict.fromkeys([*found, *([f"Review the warnings: {', '.join(warned)}"] if warned else [])]))

    def to_json(self) -> dict[str, Any]:
        """The report as JSON-ready values."""
        content = {
            "timestamp": self.timestamp,
            "model_name": self.model_name,
            "summary": self.summary,
            "health_score": self.health_score,
            "grade": self.grade,
            "problems": sum(cause.status == "failed" for cause in self.causes),
            "all_passed": self.all_passed,
            "coverage": self.coverage,
            "checks": self._checks_with_causes(),
            "skipped": [asdict(check) for check in self.skipped],
            "recommendations": self.recommendations,
            "model_facts": self.model_facts,
            "layers": self.layers,
        }
        return {key: _plain(value) for key, value in content.items()}

    def _checks_with_causes(self) -> list[dict[str, Any]]:
        """Every check; those of one cause name each other in ``also_shows_as`` and ``shown_under``."""
        told: dict[int, dict[str, Any]] = {}
        for cause in self.causes:
            if cause.also:
                told[id(cause.owner)] = {"also_shows_as": [check.check_name for check in cause.also]}
            told |= {id(check): {"shown_under": cause.owner.check_name} for check in cause.also}
        plain = [asdict(check) for check in self.checks]
        return [
            {**entry, "details": {**entry["details"], **told.get(id(check), {})}}
            for entry, check in zip(plain, self.checks, strict=True)
        ]


def _plain(value: Any) -> Any:
    """The value with text in place of NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
