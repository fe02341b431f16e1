"""What is put up with before a model counts as worse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.errors import ConfigError, did_you_mean
from harness.evaluation.metric_names import chosen_metrics, valid_metrics
from harness.monitoring.drift.floors import DEFAULT_FLOORS, Floors
from harness.tasks import TaskSpec

HARM = "harm"
"""The key of ``margins`` for the loss of accuracy on drifted data."""

HARM_MARGIN = 0.05

_LOWER_IS_BETTER = ("loss", "perplexity", "calibration_error", "mae", "rmse")


@dataclass(frozen=True)
class Expectations:
    """The bounds a model is monitored by.

    Attributes:
        thresholds: The worst value of a metric that is put up with, by name: the least accuracy, the greatest loss.
        margins: How much worse than its baseline a model may be, by the name of a per-sample score and in its units (``correct`` and
            ``accuracy``: 0.005 is half a point); ``harm`` for the accuracy on drifted data.
        floors: The least effects that count as drift.
        expected_comparisons: About how many candidates will be held against one baseline.
        alpha: The probability of a false alarm, of the comparison and of the drift gate alike.
    """

    thresholds: Mapping[str, float] = field(default_factory=dict)
    margins: Mapping[str, float] = field(default_factory=dict)
    floors: Floors = DEFAULT_FLOORS
    expected_comparisons: int = 1
    alpha: float = 0.05

    @property
    def harm_margin(self) -> float:
        """The loss of accuracy that is put up with, as a share."""
        return self.margins.get(HARM, HARM_MARGIN)

    @property
    def score_margins(self) -> dict[str, float]:
        """The margins of the comparison with a baseline."""
        return {name: margin for name, margin in self.margins.items() if name != HARM}

    def metrics(self, task: TaskSpec) -> tuple[str, ...]:
        """What must be measured: the task's metrics, and those with a threshold.

        Raises:
            ConfigError: The task has no metric of a name.
        """
        valid = valid_metrics(task.task_type)
        for name in self.thresholds:
            if name not in valid:
                raise ConfigError(
                    f"`thresholds`: {task.task_type.value} has no metric {name!r}.{did_you_mean(name, valid)} It has {', '.join(valid)}"
                )
        return tuple(dict.fromkeys((*chosen_metrics(task), *self.thresholds)))

    def missed(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The thresholds that are not met; one is not met either where its metric is NaN or not defined for the data.

        Args:
            metrics: What was measured.
        """
        return {name: bound for name, bound in self.thresholds.items() if not _meets(name, metrics.get(name), bound)}


def is_better_low(metric: str) -> bool:
    """Whether a smaller value of a metric is better."""
    return metric in _LOWER_IS_BETTER


def _meets(metric: str, value: float | None, bound: float) -> bool:
    if value is None:
        return False
    return value <= bound if is_better_low(metric) else value >= bound
