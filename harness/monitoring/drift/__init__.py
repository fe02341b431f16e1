"""Two profiles compared feature by feature, and the result over all features."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.errors import ProfileMismatchError, did_you_mean
from harness.evidence import Status
from harness.monitoring import DEFAULT_DRIFT_OPTIONS, DriftOptions
from harness.monitoring.drift.verdict import Verdict, rows_needed
from harness.monitoring.features import Difference
from harness.monitoring.features.kinds import kind_of
from harness.monitoring.features.new_levels import NEW_LEVELS
from harness.monitoring.features.ranges import RANGE
from harness.monitoring.profiles import Profile, check_same_scale, is_optional
from harness.monitoring.spread import WindowSpread
from harness.monitoring.statistics import PLENTY
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
        """The gravest finding in snake case: ``drifted``, ``changed``, ``unproven``; empty where it is no reason to warn."""
        return self.verdicts[0].finding.code

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
        min_power: The power that was asked for; ``None`` where too few rows are no reason to warn.
        windows: How many windows in a row share alpha.
        spread: How windows differ that are sound; ``None`` where nobody knows.
    """

    reference_n: int
    current_n: int
    alpha: float
    features: tuple[FeatureDrift, ...]
    tests: int
    not_compared: tuple[str, ...] = ()
    same: frozenset[str] = frozenset()
    min_power: float | None = None
    windows: int = 1
    spread: WindowSpread | None = None

    def __getitem__(self, feature: str) -> FeatureDrift:
        found = next((one for one in self.features if one.feature == feature), None)
        if found is None:
            raise KeyError(feature)
        return found

    @property
    def status(self) -> Status:
        """``fail`` where a feature drifted; ``warn`` where one did in part, and where rows are fewer than what was asked for."""
        worst = max((one.status for one in self.features), key=lambda status: status.severity, default=Status.OK)
        return Status.WARN if worst is Status.OK and self.warns_of_size else worst

    @property
    def warns_of_size(self) -> bool:
        """Whether there are no rows, or so few that the power that was asked for is not reached."""
        return not self.current_n or (self.min_power is not None and bool(self.blind))

    @property
    def blind(self) -> tuple[Verdict, ...]:
        """Verdicts for which rows are too few.

        This depends on the numbers of rows, tests and levels and on nothing random. It is said once for the whole window, and is a warning
        only where a power was asked for: a warning of each window of a size is soon read no more. A feature that fails
        needs none.
        """
        judged = [one for one in self.features if one.status is not Status.FAIL]
        return tuple(v for one in judged for v in one.verdicts if not v.can_tell and v.status is Status.OK)

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
        return f"cannot tell about {who}: {self._missed}; {rows_needed(self.blind)}"

    @property
    def _missed(self) -> str:
        if self.min_power is None:
            return "drift at the floor would be missed more often than detected"
        return f"drift at the floor would be detected with a power below {self.min_power:g} (`min_power`)"

    @property
    def message(self) -> str:
        """All of it as one sentence."""
        return _summary(self)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON-ready values."""
        return {
            "status": self.status.value,
            "message": self.message,
            "alpha": self.alpha,
            "windows": self.windows,
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
    spread: WindowSpread | None = None,
) -> DriftReport:
    """The verdict on differences of two samples, each in the light of the others.

    Args:
        differences: What was measured.
        options: The allowed error, and the power that is asked for.
        reference_n: Rows of the reference.
        current_n: Rows of the window.
        same: Features whose values are the reference's own, so that nothing is left to chance.
        spread: How windows differ that are sound; ``None`` where nobody knows, and only chance is allowed for.
    """
    usual = [None if spread is None else spread.of(one) for one in differences]
    pairs = zip(differences, usual, strict=True)
    p_values = [
        one.p if known is None else max(one.p, known.p_value(one.size, one.noise)) for one, known in pairs if one.is_tested
    ]
    corrected = zip(holm(p_values), false_discovery(p_values), strict=True)
    by_feature: dict[str, list[Verdict]] = {}
    for one, known in zip(differences, usual, strict=True):
        p_alone, q = next(corrected) if one.is_tested else (1.0, 1.0)
        verdict = Verdict(
            one,
            min(1.0, options.windows * p_alone),
            q,
            options.alpha,
            len(p_values),
            options.noted_power,
            one.feature in same,
            options.windows,
            p_alone,
            known,
            "" if spread is None else spread.name,
        )
        by_feature.setdefault(one.feature, []).append(verdict)
    return DriftReport(
        reference_n,
        current_n,
        options.alpha,
        _ranked(by_feature),
        len(p_values),
        same=frozenset(same),
        min_power=options.min_power,
        windows=options.windows,
        spread=spread,
    )


def _ranked(by_feature: dict[str, list[Verdict]]) -> tuple[FeatureDrift, ...]:
    """Those that contribute most first; equal ones as they came."""
    strengths = {name: sum(verdict.difference.strength for verdict in verdicts) for name, verdicts in by_feature.items()}
    total = sum(strengths.values()) or 1.0
    features = [
        FeatureDrift(name, tuple(sorted(verdicts, key=_gravity)), strengths[name] / total)
        for name, verdicts in by_feature.items()
    ]
    return tuple(sorted(features, key=lambda one: -one.contribution))


def _gravity(verdict: Verdict) -> tuple[int, bool, bool, float]:
    """The gravest first; new levels explain why the shares of the others moved, what is outside the range is a detail of values that drifted."""
    aspect = verdict.difference.aspect
    explains = aspect == NEW_LEVELS and verdict.status is not Status.OK
    return -verdict.status.severity, aspect == RANGE, not explains, verdict.p_adjusted


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


_MOST_DRAWS = 99_999  # about two seconds for a feature of a hundred levels
_HYPOTHESES_A_FEATURE = 3
_COINCIDENCE = math.log(1e-6)


def compare_profiles(
    reference: Profile,
    current: Profile,
    options: DriftOptions = DEFAULT_DRIFT_OPTIONS,
    spread: WindowSpread | None = None,
) -> DriftReport:
    """Whether a window is distributed as its reference.

    A feature fails if its difference is significant after correction for all tests (Holm), and its effect is above a floor. Significance
    alone would fail for differences that nobody minds once n is large, the effect alone by chance while n is small. As both must hold, a
    window without drift fails with a probability of at most alpha, whatever its size. One of the two warns. Where ``options.windows`` share
    alpha, any of them fails with that probability: the level of each is divided by their number (Bonferroni), since all are compared with one
    reference and depend on each other by it. A drift that is significant for one window only then warns.

    Args:
        reference: The reference's profile.
        current: The window's, counted on the reference's scales; it may lack labels and outputs, which are then not compared.
        options: The allowed error, the least effects that matter, and the power that is asked for.
        spread: How windows differ that are sound, by default those that the reference keeps. Where it is known, a difference must also be
            larger than in any of them, and larger than their spread explains.

    Raises:
        ProfileMismatchError: The profiles were not counted on the same scales, or the window lacks a feature of the inputs; or a floor is of
            a feature that the reference does not have.
    """
    shared = _shared(reference, current)
    unknown = next((name for name in options.floors.features if name not in reference.features), None)
    if unknown is not None:
        raise ProfileMismatchError(
            f"`drift_floors`: the reference has no feature {unknown!r}.{did_you_mean(unknown, reference.features)} It has "
            f"{listed(list(reference.features))}"
        )
    enough = math.ceil(2 * _HYPOTHESES_A_FEATURE * len(shared.features) * options.windows / options.alpha)
    least = options.least_expected if enough <= _MOST_DRAWS else max(options.least_expected, PLENTY)
    drawn = replace(options, draws=min(max(options.draws, enough), _MOST_DRAWS), least_expected=least)
    found = [
        difference
        for name, feature in shared.features.items()
        for difference in kind_of(feature).compare(
            name, feature, current.features[name], replace(drawn, floors=drawn.floors.of(name))
        )
    ]
    report = judge_differences(
        found,
        options,
        reference_n=reference.n,
        current_n=current.n,
        same=same_features(reference, current),
        spread=WindowSpread.of_profile(reference) if spread is None else spread,
    )
    return replace(report, not_compared=tuple(name for name in reference.features if name not in shared.features))


def _shared(reference: Profile, current: Profile) -> Profile:
    """The reference's part that the window can be compared with: all of it but the labels and outputs that the window may lack."""
    lacking = next((name for name in reference.features if name not in current.features and not is_optional(name)), None)
    if lacking is not None:
        raise ProfileMismatchError(
            f"the window has no feature {lacking!r}, which its reference has: count it on the reference, or compare `reference.only(...)`"
        )
    shared = reference.only(current.features)
    check_same_scale(shared, current)
    return shared


def same_features(reference: Profile, current: Profile) -> frozenset[str]:
    """The features of a window that holds the reference's own rows; empty where it holds others.

    How many rows are needed to see drift is a question about two samples that were drawn independently. Where the window is the reference,
    there is one sample, and that nothing changed is certain for any number of rows. It is taken for the reference where every count of every
    input is the same, and other rows would have the same counts with a probability below 1e-6: at most that of the least likely feature, which
    is hypergeometric given the counts of both samples together.
    """
    inputs = [name for name in reference.features if not is_optional(name)]
    if reference.n != current.n or not reference.n or not all(name in current.features for name in inputs):
        return frozenset()
    now = current.features
    equal = {name for name, before in reference.features.items() if name in now and before.to_json() == now[name].to_json()}
    if not inputs or not equal.issuperset(inputs):
        return frozenset()
    coincidences = (kind_of(reference.features[name]).log_coincidence(reference.features[name]) for name in inputs)
    if min(coincidences) > _COINCIDENCE:
        return frozenset()
    return frozenset(equal)
