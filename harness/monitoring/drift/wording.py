"""Drift in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.monitoring.drift.effect import GOOD_POWER
from harness.monitoring.drift.finding import Finding
from harness.wording import counted, figure, listed, p_value

if TYPE_CHECKING:
    from harness.monitoring.drift.report import DriftReport
    from harness.monitoring.drift.verdict import Verdict


SAME = "no drift: the data holds the same rows as the reference, so that this says nothing of new ones"


def sentence(verdict: Verdict) -> str:
    """A verdict as one sentence.

    ```text
    `age` has drifted: KS D = 0.23 (95% interval 0.17 to 0.29, floor 0.1), p < 0.0001 adjusted for 20 tests; n = 1,000 against 50,000, where
    KS D ≥ 0.072 is detectable with power 0.8; the share below 3.2 went from 40% to 55%
    ```
    """
    difference = verdict.difference
    if verdict.is_same:
        return f"{subject(verdict)}: no drift: the values are the reference's own; {_counts(verdict)}"
    if not difference.is_tested:
        opening = _opening(verdict) if difference.is_alike else f"{subject(verdict)}: cannot tell"
        return f"{opening}: {difference.untested}; {_counts(verdict)}"
    where = difference.where if verdict.is_notable else ""
    parts = [f"{_opening(verdict)}: {_effect(verdict)}, {_p_value(verdict)}", _sizes(verdict), where]
    return "; ".join(part for part in parts if part)


def subject(verdict: Verdict) -> str:
    """``age``, or ``missing values of `age```."""
    difference = verdict.difference
    name = f"`{difference.feature}`"
    return name if difference.aspect == "values" else f"{difference.aspect} of {name}"


def summary(report: DriftReport) -> str:
    """All verdicts as one sentence, and what the window cannot tell."""
    found = [text for text in (_failed(report), _warned(report), blindness(report)) if text] or [
        SAME if report.same else "no drift seen"
    ]
    if report.not_compared:
        found.append(f"not compared: {listed(list(report.not_compared))}, which the window lacks")
    sizes = f"{counted(report.current_n, 'row')} against {report.reference_n:,}, {counted(report.tests, 'test')}"
    return f"{'; '.join(found)} ({sizes})"


def blindness(report: DriftReport) -> str:
    """What rows are too few for; empty where they suffice."""
    if not report.current_n:
        return "cannot tell: the window is empty"
    if not report.blind:
        return ""
    names = list(dict.fromkeys(verdict.difference.feature for verdict in report.blind))
    who = f"`{names[0]}`" if len(names) == 1 else f"{len(names)} of {len(report.features)} features"
    return f"cannot tell about {who}: drift at the floor would be missed more often than seen; {_needed(report.blind)}"


def _opening(verdict: Verdict) -> str:
    about = subject(verdict)
    have = "has" if verdict.difference.aspect == "values" else "have"
    return {
        Finding.DRIFTED: f"{about} {have} drifted",
        Finding.CHANGED: f"{about} {have} changed, by less than matters",
        Finding.UNPROVEN: f"{about} may have drifted, or it is chance",
        Finding.CANNOT_TELL: f"{about}: cannot tell, {_needed([verdict])}",
        Finding.UNCHANGED: f"no drift seen in {about}",
    }[verdict.finding]


def _needed(verdicts: Sequence[Verdict]) -> str:
    """``needs n ≥ 662``, so many rows that drift at the floor is seen in 80% of such windows, for all of the verdicts."""
    needed = [verdict.needed for verdict in verdicts if verdict.needed is not None]
    if not needed:
        return "needs a larger reference"
    rest = "" if len(needed) == len(verdicts) else ", and for some a larger reference"
    return f"needs n ≥ {max(needed):,}{rest}"


def _effect(verdict: Verdict) -> str:
    effect = verdict.difference.effect
    return f"{effect.name} = {figure(effect.value)} (95% interval {figure(effect.low)} to {figure(effect.high)}, floor {effect.floor:g})"


def _p_value(verdict: Verdict) -> str:
    adjusted = f" adjusted for {verdict.tests} tests" if verdict.tests > 1 else ""
    return f"{p_value(verdict.p_adjusted)}{adjusted}"


def _sizes(verdict: Verdict) -> str:
    least = verdict.detectable
    what = "no drift" if least is None else f"{verdict.difference.effect.name} ≥ {figure(least, 2)}"
    return f"{_counts(verdict)}, where {what} is detectable with power {GOOD_POWER:g}"


def _counts(verdict: Verdict) -> str:
    difference = verdict.difference
    of_rows = " values, several a row" if difference.resolution.per_row > 1 else ""
    return f"n = {difference.current_n:,} against {difference.reference_n:,}{of_rows}"


def _failed(report: DriftReport) -> str:
    names = report.names("fail")
    return f"{listed(names)} drifted" if names else ""


def _warned(report: DriftReport) -> str:
    names = report.names("warn")
    return f"{listed(names)} changed, which may not matter" if names else ""
