"""A candidate against a baseline: the verdict by one score and by several, and its message."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from harness.evidence import Evidence, Status
from harness.monitoring import NOTED_POWER, Finding
from harness.monitoring.dependence import OrderDependence
from harness.wording import figure, p_value

_ROUNDING = 1e-3  # of the margin: the same model on another machine may be off by as much, and always to one side


class ComparisonFinding(Finding):
    """What a comparison comes to."""

    WORSE = "worse", Status.FAIL
    """Both keys: significant, and by more than the margin."""
    WORSE_WITHIN_MARGIN = "worse within the margin", Status.WARN
    """Significant, but small."""
    UNPROVEN = "unproven", Status.WARN
    """Beyond the margin, but not significant."""
    DEPENDENT = "dependent rows", Status.WARN
    """Samples that follow each other get worse together, so that the rates do not hold."""
    TOO_FEW_ROWS = "too few rows", Status.WARN
    """Neither, but a worsening by the margin would be seen with less power than was asked for."""
    CANNOT_TELL = "cannot tell", Status.OK
    """Neither, but a worsening by the margin would more likely be missed than seen; where no power was asked for, this is said and no more."""
    NOT_WORSE = "not worse", Status.OK
    """Neither."""


@dataclass(frozen=True)
class Comparison:
    """A candidate against a baseline on the same samples, by one score.

    It fails with two keys: the worsening is significant, and the one seen exceeds the margin. Significance alone would fail candidates for
    worsenings nobody minds once n is large; the margin alone would fail equal models by chance while n is small. As both must hold, equal
    models fail with a probability of at most alpha at every n, and a true worsening of twice the margin or more fails as soon as n suffices
    to see it. One key alone warns. Where a worsening by the margin is more likely missed than seen, that is said; it warns where a power was
    asked for.

    Attributes:
        metric: Name of the score.
        slice: Which samples, such as ``length=64-127``; empty for all.
        samples: How many samples with a label.
        baseline: Mean score of the baseline.
        candidate: Mean score of the candidate.
        difference: Candidate less baseline, in the score's own units.
        interval: Confidence interval of the difference with alpha on either side (90% for 0.05), not corrected for other tests. Where only
            one test is made, it leaves 0 out on the worse side exactly if ``p`` is at most alpha.
        p: One-sided, against the candidate not being worse.
        p_adjusted: Corrected for the other scores and slices (Holm) and for the comparisons in a row that share alpha; compare it with
            ``alpha``.
        margin: How much worse is allowed, in the score's own units.
        margin_p: One-sided, against the candidate being worse by the margin or more: where it is at most alpha, the candidate is shown not
            to be.
        power: How likely a true worsening by the margin would be significant, at the corrected level.
        detectable: The least true worsening that would be significant in four of five such comparisons; ``None`` where n is too small for
            any.
        needed: The number of samples with which a worsening by the margin would be.
        alpha: The error allowed to all tests and comparisons together.
        look: Which comparison with the baseline this is, from 1.
        in_a_row: How many comparisons in a row share alpha.
        higher_is_better: What a greater score means.
        label: What the mean score is called.
        is_share: Whether messages tell it in points of a hundred.
        is_same: Whether the candidate answers every sample as the baseline does, to the last bit of its losses.
        slices: The same for parts of the samples; empty for a slice.
        slices_left_out: Parts too small to compare.
        groups: How many groups the samples form; 0 where each counts by itself.
        group: What the groups are, in the data's own word.
        neighbours: How much neighbouring samples resemble each other, a correlation, where that is no chance and nothing says which belong
            together; else ``None``. The rates do not hold then.
        min_power: The power that was asked for; ``None`` where too few samples are no reason to warn.
    """

    metric: str
    slice: str
    samples: int
    baseline: float
    candidate: float
    difference: float
    interval: tuple[float, float]
    p: float
    p_adjusted: float
    margin: float
    margin_p: float
    power: float
    detectable: float | None
    needed: int
    alpha: float
    look: int
    in_a_row: int
    higher_is_better: bool
    label: str
    is_share: bool
    is_same: bool
    slices: tuple[Comparison, ...] = ()
    slices_left_out: int = 0
    groups: int = 0
    group: str = ""
    neighbours: float | None = None
    min_power: float | None = None

    @property
    def worsening(self) -> float:
        """By how much the candidate is worse; negative where it is better."""
        return -self.difference if self.higher_is_better else self.difference

    @property
    def is_significant(self) -> bool:
        """The first key."""
        return self.p_adjusted <= self.alpha and self.worsening > _ROUNDING * self.margin

    @property
    def is_beyond_margin(self) -> bool:
        """The second key."""
        return self.worsening > self.margin

    @property
    def can_tell(self) -> bool:
        """Whether a worsening by the margin would be seen with the power that is asked for (or rather than missed), or is ruled out."""
        enough = NOTED_POWER if self.min_power is None else self.min_power
        return self.is_same or self.power >= enough or self.margin_p <= self.alpha

    @property
    def finding(self) -> ComparisonFinding:
        """What the samples say, slices apart."""
        if self.is_significant:
            return ComparisonFinding.WORSE if self.is_beyond_margin else ComparisonFinding.WORSE_WITHIN_MARGIN
        if self.is_beyond_margin:
            return ComparisonFinding.UNPROVEN
        if self.can_tell:
            return ComparisonFinding.NOT_WORSE
        return ComparisonFinding.CANNOT_TELL if self.min_power is None else ComparisonFinding.TOO_FEW_ROWS

    @property
    def worst_slice(self) -> Comparison | None:
        """The slice that is most certainly worse, where one is."""
        worse = [part for part in self.slices if part.is_significant]
        return min(worse, key=lambda part: (-part.finding.status.severity, part.p_adjusted, -part.worsening), default=None)

    @property
    def status(self) -> Status:
        """The verdict: its own finding, or that of a slice which is worse. A slice too small to tell does not warn for the whole."""
        return self._deciding.status

    @property
    def _deciding(self) -> ComparisonFinding:
        worst = self.worst_slice
        found = [self.finding, *([worst.finding] if worst else []), *([ComparisonFinding.DEPENDENT] if self.neighbours else [])]
        return max(found, key=lambda finding: finding.status.severity)

    @property
    def message(self) -> str:
        """One sentence, in the user's terms."""
        return _sentence(self)

    def evidence(self) -> Evidence:
        """The comparison as evidence."""
        scale = _scale(self)
        return Evidence.judged(
            f"{self.metric}_against_baseline",
            self.status,
            self.message,
            (self.worsening * scale, self.margin * scale, "points" if self.is_share else ""),
            details=self.to_json(),
            code=self._deciding.code,
        )

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON-ready values, with its finding and its status."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            **plain,
            "interval": list(self.interval),
            "slices": [part.to_json() for part in self.slices],
            "finding": self.finding.value,
            "status": self.status.value,
            "message": self.message,
        }


@dataclass(frozen=True)
class Comparisons:
    """A candidate against a baseline by several scores, corrected together."""

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

    @property
    def worst(self) -> Comparison:
        """The score that is told: of those with the gravest verdict one in points, and the furthest beyond what is allowed."""
        return max(self.metrics, key=lambda one: (one.status.severity, one.is_share, one.evidence().excess))

    @property
    def finding(self) -> str:
        """The sentence of the score that decides, and the names of the others with the same verdict."""
        worst = self.worst
        others = [one.label for one in self.metrics if one.status is self.status and one is not worst]
        return f"{worst.message}; also {', '.join(others)}" if others and not worst.is_same else worst.message

    def to_json(self) -> dict[str, Any]:
        """The comparisons as JSON-ready values."""
        return {
            "status": self.status.value,
            "message": self.message,
            "metrics": {comparison.metric: comparison.to_json() for comparison in self.metrics},
        }


_MOST_DECIMALS = 8


def _scale(comparison: Comparison) -> float:
    """What a score is multiplied with to be told."""
    return 100.0 if comparison.is_share else 1.0


def _sentence(comparison: Comparison) -> str:
    """``accuracy fell by 1.2 points (allowed 0.5; 90% interval 0.6 to 1.8; p = 0.0003) on 5,000 samples; 0.7 points would be detected``."""
    return "; ".join(
        part
        for part in (
            _change(comparison),
            *_bounds(comparison),
            _reservation(comparison),
            _worst_slice(comparison),
            _dependence(comparison),
        )
        if part
    )


def _change(comparison: Comparison) -> str:
    where = f" in {comparison.slice}" if comparison.slice else ""
    samples = _on(comparison)
    if comparison.is_same:
        return f"{comparison.label}{where} is the same, as is every score, {samples}"
    allowed = figure(comparison.margin * _scale(comparison))
    return f"{comparison.label}{where} {_moved(comparison)} (allowed {allowed}; {_certainty(comparison)}) {samples}"


def _moved(comparison: Comparison) -> str:
    if comparison.difference == 0:
        return "did not change on average"
    verb = "fell" if comparison.difference < 0 else "rose"
    return f"{verb} by {_figure(comparison, abs(comparison.difference))}{_unit(comparison)}"


def _certainty(comparison: Comparison) -> str:
    """The interval in the direction of the verb, and p."""
    low, high = comparison.interval if comparison.difference >= 0 else tuple(-end for end in reversed(comparison.interval))
    ends = f"{_figure(comparison, low)} to {_figure(comparison, high)}"
    adjusted = "adjusted " if comparison.p_adjusted > comparison.p else ""
    row = f" for {comparison.in_a_row:,} comparisons in a row" if comparison.in_a_row > 1 and not comparison.slice else ""
    return f"{100 * (1 - 2 * comparison.alpha):.3g}% interval {ends}; {adjusted}{p_value(comparison.p_adjusted)}{row}"


def _bounds(comparison: Comparison) -> tuple[str, ...]:
    if comparison.is_same:
        return ()
    if comparison.detectable is None:
        return ("no worsening would be detected",)
    return (f"{_figure(comparison, comparison.detectable)}{_unit(comparison)} would be detected",)


def _reservation(comparison: Comparison) -> str:
    """What keeps the figures from being a plain yes or no."""
    parts = []
    if comparison.is_significant and not comparison.is_beyond_margin:
        parts.append("it is worse, but by less than is allowed")
    elif comparison.is_beyond_margin and not comparison.is_significant:
        parts.append("more than is allowed, but it may be chance")
    if not comparison.is_significant and not comparison.can_tell:
        parts.append(_cannot_tell(comparison))
    return ": ".join(parts)


def _cannot_tell(comparison: Comparison) -> str:
    number = f", comparison {comparison.look} with this baseline," if comparison.look > 1 else ""
    return (
        f"cannot tell: the allowed worsening{number} would be detected in {100 * comparison.power:.0f}% of such comparisons; "
        f"{comparison.needed:,} {'groups' if comparison.groups else 'samples'} would detect it in 80%"
    )


def _worst_slice(comparison: Comparison) -> str:
    worst = comparison.worst_slice
    if worst is None:
        return ""
    worse = sum(part.is_significant for part in comparison.slices)
    rank = f", the worst of {worse} such slices," if worse > 1 else ""
    return f"in {worst.slice}{rank} it {_moved(worst)} ({_certainty(worst)}) {_on(worst)}"


def _on(comparison: Comparison) -> str:
    """``on 5,000 samples``, or ``on 5,000 samples in 500 groups of `passage```."""
    groups = f" in {comparison.groups:,} groups of `{comparison.group}`" if comparison.groups else ""
    return f"on {comparison.samples:,} samples{groups}"


def _dependence(comparison: Comparison) -> str:
    if comparison.neighbours is None:
        return ""
    return OrderDependence(comparison.metric, comparison.neighbours, 0.0).message


def _unit(comparison: Comparison) -> str:
    return " points" if comparison.is_share else ""


def _figure(comparison: Comparison, value: float) -> str:
    """A difference with the decimals that its interval leaves meaningful."""
    low, high = comparison.interval
    width = (high - low) * _scale(comparison)
    told = value * _scale(comparison)
    if width <= 0:
        return figure(told)
    decimals = min(max(1 - math.floor(math.log10(width)), 0), _MOST_DECIMALS)
    return f"{told + 0.0:,.{decimals}f}"
