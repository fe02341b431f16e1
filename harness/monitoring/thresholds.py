"""A metric against its threshold, with a confidence interval: surely worse fails, in doubt warns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.evidence import Status
from harness.monitoring import Finding, is_better_low

if TYPE_CHECKING:
    from harness.evaluation.evaluation import Evaluation

Interval = tuple[float, float]

_LEVEL = 0.95


class ThresholdFinding(Finding):
    """What a metric comes to."""

    MISSED = "misses threshold", Status.FAIL
    """The whole interval is on the wrong side; or the value, where no interval is known."""
    IN_DOUBT = "near threshold", Status.WARN
    """The value is on the wrong side, its interval not all of it."""
    MET = "meets threshold", Status.OK
    """The value is on the right side."""


@dataclass(frozen=True)
class ThresholdVerdict:
    """A metric against its threshold.

    Attributes:
        metric: Its name.
        value: As measured; ``None`` where it is not defined for the rows.
        limit: The threshold: a minimum, or a maximum for losses and errors.
        interval: Where it lies in 95 of 100 such samples of rows; ``None`` where that is not known, as for metrics that are no mean over rows.
    """

    metric: str
    value: float | None
    limit: float
    interval: Interval | None

    @classmethod
    def of(cls, metric: str, limit: float, found: Evaluation) -> ThresholdVerdict:
        """A metric of an evaluation.

        Args:
            metric: Its name.
            limit: The threshold.
            found: The evaluation.
        """
        value = found.summary.get(metric)
        scores = _scores_of(metric, found.scores)
        return cls(metric, value, limit, None if value is None or scores is None else _interval(metric, value, scores))

    @property
    def finding(self) -> ThresholdFinding:
        """What it comes to."""
        if self.value is None or not self._meets(self.value):
            best = self.value if self.interval is None else self.interval[0 if is_better_low(self.metric) else 1]
            return ThresholdFinding.IN_DOUBT if best is not None and self._meets(best) else ThresholdFinding.MISSED
        return ThresholdFinding.MET

    def _meets(self, value: float) -> bool:
        return value <= self.limit if is_better_low(self.metric) else value >= self.limit

    @property
    def message(self) -> str:
        """``accuracy is 0.84, below the threshold 0.85, but it may be chance (95% interval 0.782 to 0.885)``."""
        if self.value is None:
            return f"{self.metric} is not defined for these rows, its threshold is {self.limit:g}"
        side = "above" if is_better_low(self.metric) else "below"
        said = f"{self.metric} is {self.value:.4g}, {side} the threshold {self.limit:g}"
        if self.interval is None:
            return f"{said} (no interval is known for it)"
        low, high = self.interval
        chance = ", but it may be chance" if self.finding is ThresholdFinding.IN_DOUBT else ""
        return f"{said}{chance} ({_LEVEL:.0%} interval {low:.4g} to {high:.4g})"


_SCORE_OF = {"accuracy": "correct", "rmse": "squared_error", "perplexity": "loss"}
"""The score of a row whose mean a metric follows from, where it has another name."""


def _scores_of(metric: str, scores: Mapping[str, NDArray[Any]]) -> NDArray[np.float64] | None:
    """The scores of the rows that have one, ``[N]``; ``None`` where the metric follows from no mean of them, or there are fewer than two."""
    prefix, dot, name = metric.rpartition(".")
    found = scores.get(f"{prefix}{dot}{_SCORE_OF.get(name, name)}", scores.get(metric))
    if found is None:
        return None
    kept = np.asarray(found, np.float64)
    kept = kept[np.isfinite(kept)]
    return kept if len(kept) > 1 else None


def _interval(metric: str, value: float, scores: NDArray[np.float64]) -> Interval:
    """Of shares of right answers Wilson's (1927), of other means Student's, on the scale of the metric."""
    name = metric.rpartition(".")[2]
    if name == "accuracy" and np.isin(scores, (0, 1)).all():
        return wilson_interval(value, len(scores))
    to_mean, from_mean = _SCALES.get(name, (float, float))
    middle, reach = to_mean(value), _student(scores)
    return from_mean(middle - reach), from_mean(middle + reach)


def _student(scores: NDArray[np.float64]) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(len(scores) - 1, (1 + _LEVEL) / 2) * scores.std(ddof=1) / math.sqrt(len(scores)))


_Scale = Callable[[float], float]
_SCALES: dict[str, tuple[_Scale, _Scale]] = {
    "rmse": (lambda value: value**2, lambda mean: math.sqrt(max(mean, 0.0))),
    "perplexity": (math.log, math.exp),
}
"""From a metric to the mean that it follows from, and back."""

_Z = 1.959964


def wilson_interval(share: float, n: int) -> Interval:
    """The 95% score interval of a share of ``n`` (Wilson 1927)."""
    z2 = _Z**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    reach = _Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, middle - reach), min(1.0, middle + reach)
