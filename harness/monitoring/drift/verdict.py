"""The verdict on one difference, corrected for all that were tested with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.evidence import Status
from harness.monitoring.drift import wording
from harness.monitoring.drift.difference import Difference
from harness.monitoring.drift.effect import GOOD_POWER
from harness.monitoring.drift.finding import Finding


@dataclass(frozen=True)
class Verdict:
    """A difference and what follows from it.

    Attributes:
        difference: What was measured.
        p_adjusted: Corrected for all tests of the gate (Holm).
        q: The share of wrong names among features named down to this one (Benjamini-Hochberg).
        alpha: What both are held against.
        tests: How many tests there were.
        min_power: How likely a drift at the floor must be seen for the test to count as able to see it.
        is_same: Whether the values are the reference's own, which is certain for any number of rows.
    """

    difference: Difference
    p_adjusted: float
    q: float
    alpha: float
    tests: int
    min_power: float
    is_same: bool = False

    @property
    def is_significant(self) -> bool:
        """The first key."""
        return self.difference.is_tested and self.p_adjusted <= self.alpha

    @property
    def is_named(self) -> bool:
        """Whether the feature is among those that probably changed."""
        return self.difference.is_tested and self.q <= self.alpha

    @property
    def can_tell(self) -> bool:
        """Whether a drift at the floor would rather be seen than missed."""
        if self.is_same:
            return True
        if not (self.difference.is_tested or self.difference.is_alike):
            return False
        return not self.min_power or self.difference.resolution.can_show(
            self.difference.effect.floor, self._level, self.min_power
        )

    @property
    def detectable(self) -> float | None:
        """The smallest effect that would be significant with power 0.8; ``None`` where there is none."""
        return self.difference.resolution.detectable(self._level, GOOD_POWER)

    @property
    def needed(self) -> int | None:
        """Rows that the window needs for a drift at the floor to be significant with power 0.8; ``None`` where the reference is too small."""
        return self.difference.resolution.needed(self.difference.effect.floor, self._level, GOOD_POWER)

    @property
    def finding(self) -> Finding:
        """What the difference comes to."""
        is_large = self.difference.effect.is_large
        if self.is_significant:
            return Finding.DRIFTED if is_large else Finding.CHANGED
        if not self.can_tell:
            return Finding.CANNOT_TELL
        return Finding.UNPROVEN if is_large and self.difference.is_tested else Finding.UNCHANGED

    @property
    def status(self) -> Status:
        """The verdict."""
        return self.finding.status

    @property
    def is_notable(self) -> bool:
        """Whether either key turned, so that it is worth saying where."""
        return self.finding in (Finding.DRIFTED, Finding.CHANGED, Finding.UNPROVEN)

    @property
    def message(self) -> str:
        """One sentence."""
        return wording.sentence(self)

    @property
    def _level(self) -> float:
        """The level of the strictest step of the correction."""
        return self.alpha / max(self.tests, 1)

    def to_json(self) -> dict[str, Any]:
        """The verdict as JSON-ready values."""
        difference, effect = self.difference, self.difference.effect
        return {
            "aspect": difference.aspect,
            "finding": self.finding.value,
            "status": self.status.value,
            "message": self.message,
            "test": difference.test,
            "p": difference.p,
            "p_adjusted": self.p_adjusted,
            "q": self.q,
            "effect": {"name": effect.name, "value": effect.value, "interval": [effect.low, effect.high], "floor": effect.floor},
            "detectable": self.detectable,
            "needed": self.needed,
            "reference_n": difference.reference_n,
            "current_n": difference.current_n,
            "where": difference.where,
            "untested": difference.untested,
        }
