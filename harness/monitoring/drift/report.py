"""What two samples come to, over all their features."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from harness.evidence import Evidence, Status
from harness.monitoring.drift.verdict import Verdict, rows_needed
from harness.monitoring.options import DriftOptions
from harness.monitoring.statistics.difference import Difference
from harness.statistics import false_discovery, holm
from harness.wording import counted, listed

SAME = "no drift: the data has the same rows as the reference, so this says nothing about new rows"


@dataclass(frozen=True)
class FeatureDrift:
    """One feature.

    Attributes:
        feature: Its name.
        verdicts: On its values, its missing values, its new levels, whichever apply; the gravest first.
        contribution: Its share of the drift of all features: of the sum of their squared effects, each in units of its floor and less what
            chance gives.
    """

    feature: str
    verdicts: tuple[Verdict, ...]
    contribution: float

    @property
    def status(self) -> Status:
        """The worst of the verdicts."""
        return self.verdicts[0].status

    @property
    def is_named(self) -> bool:
        """Whether it is among the features that probably changed (Benjamini-Hochberg)."""
        return any(verdict.is_named for verdict in self.verdicts)

    @property
    def message(self) -> str:
        """The gravest verdicts, one sentence each."""
        return "\n".join(verdict.message for verdict in self.verdicts if verdict.status is self.status)

    @property
    def code(self) -> str:
        """The gravest finding in snake case: ``drifted``, ``changed``, ``unproven``; empty where nothing was found."""
        return self.verdicts[0].finding.code

    def evidence(self) -> Evidence:
        """The feature as evidence."""
        effect = self.verdicts[0].difference.effect
        return Evidence(
            name=f"{self.feature}_drift",
            status=self.status,
            message=self.message,
            measured=effect.value,
            bound=effect.floor,
            unit=effect.name,
            details=self.to_json(),
            code=self.code,
        )

    def to_json(self) -> dict[str, Any]:
        """The feature as JSON-ready values."""
        return {
            "feature": self.feature,
            "status": self.status.value,
            "message": self.message,
            "contribution": self.contribution,
            "is_named": self.is_named,
            "differences": [verdict.to_json() for verdict in self.verdicts],
        }


@dataclass(frozen=True)
class DriftReport:
    """The gate: whether a window is distributed as its reference.

    Attributes:
        reference_n: Rows of the reference.
        current_n: Rows of the window.
        alpha: The probability of a failure without drift, at most.
        features: Those that contribute most to the drift first.
        tests: How many hypotheses the gate tested.
        not_compared: Features of the reference that the window lacks: labels, or outputs.
        same: Features that are certain to be unchanged, as the window holds the reference's own rows; empty where it holds others.
    """

    reference_n: int
    current_n: int
    alpha: float
    features: tuple[FeatureDrift, ...]
    tests: int
    not_compared: tuple[str, ...] = ()
    same: frozenset[str] = frozenset()

    def __getitem__(self, feature: str) -> FeatureDrift:
        found = next((one for one in self.features if one.feature == feature), None)
        if found is None:
            raise KeyError(feature)
        return found

    @property
    def status(self) -> Status:
        """``fail`` where a feature drifted; ``warn`` where one did in part, or where rows are too few to tell."""
        worst = max((one.status for one in self.features), key=lambda status: status.severity, default=Status.OK)
        return Status.WARN if worst is Status.OK and (self.blind or not self.current_n) else worst

    @property
    def blind(self) -> tuple[Verdict, ...]:
        """Verdicts for which rows are too few.

        They warn once for the whole window. That depends on the numbers of rows, tests and levels and on nothing random, so that it is no
        false alarm; and a gate that says ``ok`` of what it cannot see would be asleep.
        """
        return tuple(v for one in self.features for v in one.verdicts if not v.can_tell and v.status is Status.OK)

    @property
    def named(self) -> list[str]:
        """Features that probably changed, most of the drift first; of such lists, a share of alpha is wrong on average."""
        return [one.feature for one in self.features if one.is_named]

    def names(self, status: Status | str) -> list[str]:
        """Features of a status."""
        return [one.feature for one in self.features if one.status == status]

    @property
    def blindness(self) -> str:
        """What the window has too few rows for, in words; empty where they suffice."""
        if not self.current_n:
            return "cannot tell: the window is empty"
        if not self.blind:
            return ""
        names = list(dict.fromkeys(verdict.difference.feature for verdict in self.blind))
        who = f"`{names[0]}`" if len(names) == 1 else f"{len(names)} of {len(self.features)} features"
        return f"cannot tell about {who}: drift at the floor would be missed more often than detected; {rows_needed(self.blind)}"

    @property
    def message(self) -> str:
        """All of it as one sentence."""
        return _summary(self)

    def evidence(self) -> list[Evidence]:
        """Evidence on the window's size, then on each feature."""
        blindness = self.blindness
        status = Status.WARN if blindness else Status.OK
        size = Evidence(
            name="window_size",
            status=status,
            message=blindness or f"{self.current_n:,} rows are enough to see drift that matters",
            measured=float(self.current_n),
            unit="rows",
            details={"blind": [verdict.difference.feature for verdict in self.blind]},
            code="too_few_rows" if blindness else "",
        )
        return [size, *(one.evidence() for one in self.features)]

    def to_json(self) -> dict[str, Any]:
        """The report as JSON-ready values."""
        return {
            "status": self.status.value,
            "message": self.message,
            "alpha": self.alpha,
            "reference_n": self.reference_n,
            "current_n": self.current_n,
            "tests": self.tests,
            "drifted": self.names(Status.FAIL),
            "named": self.named,
            "cannot_tell": list(dict.fromkeys(verdict.difference.feature for verdict in self.blind)),
            "not_compared": list(self.not_compared),
            "is_same_data": bool(self.same),
            "features": [one.to_json() for one in self.features],
        }


def judge_differences(
    differences: Sequence[Difference],
    options: DriftOptions,
    *,
    reference_n: int,
    current_n: int,
    same: Collection[str] = (),
) -> DriftReport:
    """The verdict on differences of two samples, each in the light of the others.

    Args:
        differences: What was measured.
        options: The allowed error, and the power that is asked for.
        reference_n: Rows of the reference.
        current_n: Rows of the window.
        same: Features whose values are the reference's own, so that nothing is left to chance.
    """
    p_values = [one.p for one in differences if one.is_tested]
    corrected = zip(holm(p_values), false_discovery(p_values), strict=True)
    by_feature: dict[str, list[Verdict]] = {}
    for one in differences:
        p_adjusted, q = next(corrected) if one.is_tested else (1.0, 1.0)
        verdict = Verdict(one, p_adjusted, q, options.alpha, len(p_values), options.min_power, one.feature in same)
        by_feature.setdefault(one.feature, []).append(verdict)
    return DriftReport(reference_n, current_n, options.alpha, _ranked(by_feature), len(p_values), same=frozenset(same))


def _ranked(by_feature: dict[str, list[Verdict]]) -> tuple[FeatureDrift, ...]:
    """Those that contribute most first; equal ones as they came."""
    strengths = {name: sum(verdict.difference.strength for verdict in verdicts) for name, verdicts in by_feature.items()}
    total = sum(strengths.values()) or 1.0
    features = [
        FeatureDrift(name, tuple(sorted(verdicts, key=lambda v: (-v.status.severity, v.p_adjusted))), strengths[name] / total)
        for name, verdicts in by_feature.items()
    ]
    return tuple(sorted(features, key=lambda one: -one.contribution))


def _summary(report: DriftReport) -> str:
    """All verdicts as one sentence, and what the window cannot tell."""
    found = [text for text in (_failed(report), _warned(report), report.blindness) if text] or [
        SAME if report.same else "no drift found"
    ]
    if report.not_compared:
        found.append(f"not compared: {listed(list(report.not_compared))}, which the window does not have")
    sizes = f"{counted(report.current_n, 'row')} against {report.reference_n:,}, {counted(report.tests, 'test')}"
    return f"{'; '.join(found)} ({sizes})"


def _failed(report: DriftReport) -> str:
    names = report.names("fail")
    return f"{listed(names)} drifted" if names else ""


def _warned(report: DriftReport) -> str:
    names = report.names("warn")
    return f"{listed(names)} changed, which may not matter" if names else ""
