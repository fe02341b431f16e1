"""The verdict on a candidate by one score: how much worse, how certain, and what would have been noticed."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

from harness.evidence import Evidence, Status
from harness.monitoring.gate import wording

_ENOUGH_POWER = 0.5
_ROUNDING = 1e-3  # of the margin: the same model on another machine may be off by as much, and always to one side


class Finding(str, Enum):
    """What a comparison comes to."""

    WORSE = "worse"
    """Both keys: significant, and by more than the margin."""
    WORSE_WITHIN_MARGIN = "worse within the margin"
    """Significant alone."""
    UNPROVEN = "unproven"
    """Beyond the margin alone."""
    CANNOT_TELL = "cannot tell"
    """Neither, but a worsening by the margin would more likely be missed than seen."""
    NOT_WORSE = "not worse"
    """Neither."""

    @property
    def status(self) -> Status:
        """What the finding means for the gate."""
        return {Finding.WORSE: Status.FAIL, Finding.NOT_WORSE: Status.OK}.get(self, Status.WARN)


@dataclass(frozen=True)
class Comparison:
    """A candidate against a baseline on the same samples, by one score.

    It fails with two keys: the worsening is significant, and the one seen exceeds the margin. Significance alone would fail candidates for
    worsenings nobody minds once n is large; the margin alone would fail equal models by chance while n is small. As both must hold, equal
    models fail with a probability of at most alpha at every n, and a true worsening of twice the margin or more fails as soon as n suffices
    to see it. One key alone warns, and so does a comparison that would rather miss a worsening by the margin than see it.

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
        p_adjusted: Corrected for the other scores and slices (Holm) and for earlier looks at the baseline; to be held against ``alpha``.
        margin: How much worse is put up with, in the score's own units.
        margin_p: One-sided, against the candidate being worse by the margin or more: where it is at most alpha, the candidate is shown not
            to be.
        power: How likely a true worsening by the margin would be significant, at the corrected level.
        detectable: The least true worsening that would be significant in four of five such comparisons; ``None`` where n is too small for
            any.
        needed: The number of samples with which a worsening by the margin would be.
        alpha: The error allowed to all tests and looks together.
        look: Which look at the baseline this is, from 1.
        higher_is_better: What a greater score means.
        label: What the mean score is called.
        is_share: Whether messages tell it in points of a hundred.
        is_same: Whether the candidate answers every sample as the baseline does, to the last bit of its losses.
        slices: The same for parts of the samples; empty for a slice.
        slices_left_out: Parts too small to compare.
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
    higher_is_better: bool
    label: str
    is_share: bool
    is_same: bool
    slices: tuple[Comparison, ...] = ()
    slices_left_out: int = 0

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
        """Whether a worsening by the margin would rather be seen than missed, or is ruled out."""
        return self.is_same or self.power >= _ENOUGH_POWER or self.margin_p <= self.alpha

    @property
    def finding(self) -> Finding:
        """What the samples say, slices apart."""
        if self.is_significant:
            return Finding.WORSE if self.is_beyond_margin else Finding.WORSE_WITHIN_MARGIN
        if self.is_beyond_margin:
            return Finding.UNPROVEN
        return Finding.NOT_WORSE if self.can_tell else Finding.CANNOT_TELL

    @property
    def worst_slice(self) -> Comparison | None:
        """The slice that is most certainly worse, where one is."""
        worse = [part for part in self.slices if part.is_significant]
        return min(worse, key=lambda part: (-part.finding.status.severity, part.p_adjusted, -part.worsening), default=None)

    @property
    def status(self) -> Status:
        """The verdict: its own finding, or that of a slice which is worse. A slice too small to tell does not warn for the whole."""
        worst = self.worst_slice
        found = [self.finding.status, *([worst.finding.status] if worst else [])]
        return max(found, key=lambda status: status.severity)

    @property
    def message(self) -> str:
        """One sentence, in the user's terms."""
        return wording.sentence(self)

    def evidence(self) -> Evidence:
        """The comparison as evidence."""
        scale = wording.scale(self)
        return Evidence(
            name=f"{self.metric}_against_baseline",
            status=self.status,
            message=self.message,
            measured=self.worsening * scale,
            bound=self.margin * scale,
            unit="points" if self.is_share else "",
            details=self.to_json(),
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
