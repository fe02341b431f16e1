"""The verdict on what drift does to a model."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from harness.evidence import Evidence, Status
from harness.monitoring.drift.report import DriftReport
from harness.monitoring.harm.estimate import AccuracyEstimate


class HarmFinding(str, Enum):
    """What an estimated loss of accuracy comes to."""

    HARMFUL = "harmful"
    """The whole interval of the loss is beyond the margin."""
    UNPROVEN = "unproven"
    """The loss is beyond the margin, its interval not all of it."""
    CANNOT_TELL = "cannot tell"
    """It is not, but the interval is so wide that it says little."""
    HARMLESS = "harmless"
    """It is not, and is known well enough."""

    @property
    def status(self) -> Status:
        """What the finding means for the gate."""
        return {HarmFinding.HARMFUL: Status.FAIL, HarmFinding.HARMLESS: Status.OK}.get(self, Status.WARN)


@dataclass(frozen=True)
class Harm:
    """The estimated loss of accuracy against what is put up with.

    Attributes:
        estimate: What was estimated.
        margin: The loss that is put up with, as a share: 0.05 is five points.
    """

    estimate: AccuracyEstimate
    margin: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.margin <= 1:
            raise ValueError(f"the margin is a share of the answers, 0 to 1, got {self.margin}")

    @property
    def finding(self) -> HarmFinding:
        """What the loss comes to."""
        low, high = self.estimate.loss_interval
        if low > self.margin:
            return HarmFinding.HARMFUL
        if self.estimate.loss > self.margin:
            return HarmFinding.UNPROVEN
        return HarmFinding.CANNOT_TELL if (high - low) / 2 > self.margin else HarmFinding.HARMLESS

    @property
    def is_ruled_out(self) -> bool:
        """Whether the whole interval of the loss is within the margin."""
        return self.estimate.loss_interval[1] <= self.margin

    @property
    def is_known_harmless(self) -> bool:
        """Whether labels show that; an estimate does not, as it cannot see a model that is sure of wrong answers."""
        return self.estimate.is_measured and self.is_ruled_out

    @property
    def status(self) -> Status:
        """The verdict."""
        return self.finding.status

    @property
    def message(self) -> str:
        """One sentence."""
        estimate = self.estimate
        if not estimate.n:
            return "accuracy cannot be estimated: the window is empty"
        opening = {
            HarmFinding.HARMFUL: "accuracy has fallen",
            HarmFinding.UNPROVEN: "accuracy may have fallen, or it is chance",
            HarmFinding.CANNOT_TELL: "cannot tell whether accuracy has fallen",
            HarmFinding.HARMLESS: "accuracy has not fallen by more than the margin",
        }[self.finding]
        low, high = estimate.interval
        how = "" if estimate.is_measured else ", estimated without labels"
        return (
            f"{opening}: {estimate.accuracy:.1%} (95% interval {low:.1%} to {high:.1%}{how}) against {estimate.reference_accuracy:.1%}, "
            f"{_change(estimate)}; the margin is {100 * self.margin:g}; n = {estimate.n:,} against {estimate.reference_n:,}{self._unseen}"
        )

    @property
    def _unseen(self) -> str:
        """What an estimate that finds no loss cannot have seen."""
        if not self.estimate.is_measured and self.finding is HarmFinding.HARMLESS:
            return "; mistakes that the model is sure of, and labels of another meaning, do not show in an estimate"
        return ""

    def evidence(self) -> Evidence:
        """The harm as evidence."""
        return Evidence(
            name="estimated_accuracy",
            status=self.status,
            message=self.message,
            measured=100 * self.estimate.loss,
            bound=100 * self.margin,
            unit="points",
            details=self.to_json(),
        )

    def to_json(self) -> dict[str, Any]:
        """The harm as JSON-ready values."""
        return {
            "status": self.status.value,
            "finding": self.finding.value,
            "message": self.message,
            "margin": self.margin,
            **self.estimate.to_json(),
        }


def _change(estimate: AccuracyEstimate) -> str:
    """``a loss of 5.1 points (3.2 to 7.4)``, or ``a gain``."""
    least, most = estimate.loss_interval
    word, value, low, high = (
        ("loss", estimate.loss, least, most) if estimate.loss >= 0 else ("gain", -estimate.loss, -most, -least)
    )
    return f"a {word} of {100 * value:.1f} points ({100 * low:.1f} to {100 * high:.1f})"


def judge_with_harm(drift: DriftReport, harm: Harm | None) -> Status:
    """The verdict on a window: harm fails, drift of which labels show that it does not hurt warns.

    Drift fails as long as harm is not ruled out by labels. An estimate without labels never clears it: what makes a model wrong without making
    it less sure shows in no estimate.

    Args:
        drift: How the window differs.
        harm: What that does to the model; ``None`` where it was not estimated.
    """
    if harm is None:
        return drift.status
    if harm.is_known_harmless and drift.status is Status.FAIL:
        return Status.WARN
    return max(drift.status, harm.status, key=lambda status: status.severity)
