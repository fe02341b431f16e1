"""The verdict on one difference, corrected for all that were tested with it, and its message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.evidence import Status
from harness.monitoring import Finding
from harness.monitoring.features import GOOD_POWER, Difference
from harness.monitoring.statistics import Usual
from harness.wording import counted, figure, p_value


class DriftFinding(Finding):
    """What a difference comes to."""

    DRIFTED = "drifted", Status.FAIL
    """Both keys: significant, and large enough to matter."""
    CHANGED = "changed", Status.WARN
    """Significant, but small."""
    UNPROVEN = "unproven", Status.WARN
    """Large but not significant, among enough rows."""
    CANNOT_TELL = "cannot tell", Status.OK
    """Not significant among so few rows that a drift at the floor would more likely be missed than seen."""
    USUAL = "usual", Status.OK
    """Large, and no surprise: windows that are sound differ as much."""
    UNCHANGED = "unchanged", Status.OK
    """Neither."""


@dataclass(frozen=True)
class Verdict:
    """A difference and what follows from it.

    Attributes:
        difference: What was measured.
        p_adjusted: Corrected for all tests of the gate (Holm), and for the windows that share alpha (Bonferroni).
        q: The share of wrong names among features named down to this one (Benjamini-Hochberg).
        alpha: What both are compared with.
        tests: How many tests there were.
        min_power: How likely a drift at the floor must be seen for the test to count as able to see it.
        is_same: Whether the values are the reference's own, which is certain for any number of rows.
        windows: How many windows in a row share alpha.
        p_alone: Corrected for all tests only, as if there were no other windows.
        usual: How large the difference is in windows that are sound; ``None`` where that is not known, and only chance is allowed for.
        spread: What these windows are, in words.
    """

    difference: Difference
    p_adjusted: float
    q: float
    alpha: float
    tests: int
    min_power: float
    is_same: bool = False
    windows: int = 1
    p_alone: float = 1.0
    usual: Usual | None = None
    spread: str = ""

    @property
    def is_significant(self) -> bool:
        """The first key."""
        return self.difference.is_tested and self.p_adjusted <= self.alpha

    @property
    def is_significant_by_itself(self) -> bool:
        """Whether it would be significant were this the only window, and is not among all that share alpha."""
        return self.difference.is_tested and not self.is_significant and self.p_alone <= self.alpha

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
        return not self.min_power or self.difference.resolution.can_show(self.difference.effect.floor, self.level, self.min_power)

    @property
    def detectable(self) -> float | None:
        """The smallest effect that would be significant with power 0.8; ``None`` where there is none."""
        by_rows = self.difference.resolution.detectable(self.level, GOOD_POWER)
        if by_rows is None or self.usual is None:
            return by_rows
        least = max(by_rows, self.difference.effect.none + self.usual.detectable(self.difference.noise, self.level))
        return least if least <= self.difference.resolution.most else None

    @property
    def needed(self) -> int | None:
        """Rows that the window needs for a drift at the floor to be significant with power 0.8; ``None`` where the reference is too small."""
        return self.difference.resolution.needed(self.difference.effect.floor, self.level, GOOD_POWER)

    @property
    def finding(self) -> DriftFinding:
        """What the difference comes to."""
        is_large = self.difference.effect.is_large
        if self.is_significant:
            return DriftFinding.DRIFTED if is_large else DriftFinding.CHANGED
        if is_large and self.is_significant_by_itself:
            return DriftFinding.UNPROVEN
        if is_large and self.usual is not None:
            return DriftFinding.USUAL
        if not self.can_tell:
            return DriftFinding.CANNOT_TELL
        return DriftFinding.UNPROVEN if is_large and self.difference.is_tested else DriftFinding.UNCHANGED

    @property
    def status(self) -> Status:
        """The verdict."""
        return self.finding.status

    @property
    def is_notable(self) -> bool:
        """Whether either key turned, so that it is worth saying where."""
        return self.finding in (DriftFinding.DRIFTED, DriftFinding.CHANGED, DriftFinding.UNPROVEN)

    @property
    def message(self) -> str:
        """One sentence."""
        return _sentence(self)

    @property
    def level(self) -> float:
        """The level of the strictest step of the correction."""
        return self.alpha / max(self.tests, 1) / self.windows

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
            "p_alone": self.p_alone,
            "q": self.q,
            "effect": {"name": effect.name, "value": effect.value, "interval": [effect.low, effect.high], "floor": effect.floor},
            "usual": self._usual_json(),
            "detectable": self.detectable,
            "needed": self.needed,
            "reference_n": difference.reference_n,
            "current_n": difference.current_n,
            "where": difference.where,
            "untested": difference.untested,
        }

    def _usual_json(self) -> dict[str, Any] | None:
        if self.usual is None:
            return None
        alike = self.usual.alike(self.difference.size)
        return {"windows": len(self.usual.effects), "said": self.spread, "largest": self.usual.largest, "alike": alike}


def _sentence(verdict: Verdict) -> str:
    """A verdict as one sentence.

    ```text
    `age` has drifted: the share below 3.2 went from 40% to 55%; KS D = 0.23 (allowed below 0.1; 95% interval 0.17 to 0.29),
    p < 0.0001 adjusted for 20 tests; n = 1,000 against 50,000
    ```
    """
    difference = verdict.difference
    if verdict.is_same:
        return f"{_subject(verdict)}: no drift: the values are those of the reference; {_counts(verdict)}"
    if not difference.is_tested:
        opening = _opening(verdict) if difference.is_alike else f"{_subject(verdict)}: cannot tell"
        return f"{opening}: {difference.untested}; {_counts(verdict)}"
    where = difference.where if verdict.is_notable else ""
    is_found = verdict.finding is DriftFinding.DRIFTED  # what else could have been found is no matter then
    measured = f"{_effect(verdict)}, {_p_value(verdict)}; {_counts(verdict) if is_found else _sizes(verdict)}"
    return f"{_opening(verdict)}: {f'{where}; ' if where else ''}{measured}"


def _subject(verdict: Verdict) -> str:
    """``age``, or ``missing values of `age```."""
    difference = verdict.difference
    name = f"`{difference.feature}`"
    aspect = "the range" if difference.aspect == "range" else difference.aspect
    return name if difference.aspect == "values" else f"{aspect} of {name}"


def _opening(verdict: Verdict) -> str:
    about = _subject(verdict)
    have = "has" if verdict.difference.aspect in ("values", "range") else "have"
    return {
        DriftFinding.DRIFTED: f"{about} {have} drifted",
        DriftFinding.CHANGED: f"{about} {have} changed, but by less than is allowed",
        DriftFinding.UNPROVEN: f"{about} may have drifted, but it may be chance",
        DriftFinding.CANNOT_TELL: f"{about}: cannot tell, {rows_needed([verdict])}",
        DriftFinding.USUAL: f"{about} {have} changed, but by no more than is usual",
        DriftFinding.UNCHANGED: f"no drift found in {about}",
    }[verdict.finding]


def rows_needed(verdicts: Sequence[Verdict]) -> str:
    """``needs 662 rows or more for drift at the floor to be significant in 80% of windows``, for all of the verdicts."""
    needed = [verdict.needed for verdict in verdicts if verdict.needed is not None]
    if not needed:
        return "the reference is too small"
    rest = "" if len(needed) == len(verdicts) else ", and for some features the reference is too small"
    return f"needs {max(needed):,} rows or more for drift at the floor to be significant in {GOOD_POWER:.0%} of windows{rest}"


def _effect(verdict: Verdict) -> str:
    effect = verdict.difference.effect
    interval = f"95% interval {figure(effect.low)} to {figure(effect.high)}"
    return f"{effect.name} = {figure(effect.value)} (allowed below {effect.floor:g}; {interval}{_usual(verdict)})"


def _usual(verdict: Verdict) -> str:
    """``; at most 0.12 in 31 days of the reference``, or nothing where that is not known."""
    if verdict.usual is None:
        return ""
    return f"; at most {figure(verdict.usual.largest, 2)} in {verdict.spread}"


def _p_value(verdict: Verdict) -> str:
    number = [counted(verdict.tests, "test")] if verdict.tests > 1 else []
    number += [counted(verdict.windows, "window")] if verdict.windows > 1 else []
    adjusted = f" adjusted for {' and '.join(number)}" if number else ""
    alone = f"; {p_value(verdict.p_alone)} for this window alone" if verdict.is_significant_by_itself else ""
    return f"{p_value(verdict.p_adjusted)}{adjusted}{alone}"


def _sizes(verdict: Verdict) -> str:
    least = verdict.detectable
    what = "no drift" if least is None else f"{verdict.difference.effect.name} ≥ {figure(least, 2)}"
    return f"{_counts(verdict)}, where {what} is detectable with power {GOOD_POWER:g}"


def _counts(verdict: Verdict) -> str:
    difference = verdict.difference
    of_rows = " values, several a row" if difference.resolution.per_row > 1 else ""
    return f"n = {difference.current_n:,} against {difference.reference_n:,}{of_rows}"
