"""Metrics by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torchmetrics import Metric

from harness.evaluation.metrics.classification import Accuracy, CalibrationError, MacroF1, RocArea
from harness.evaluation.metrics.regression import ExplainedVariance, MeanAbsoluteError, RootMeanSquaredError
from harness.evaluation.metrics.sequences import Bleu, RougeL


@dataclass(frozen=True)
class Setting:
    """What a metric may need to know.

    Attributes:
        classes: How many there are; 0 where there are none.
        count_samples: How many samples there will be, of all processes; for a stream this may read through a file.
        synchronisation: Arguments of every metric, for processes that share the samples.
    """

    classes: int
    count_samples: Callable[[], int]
    synchronisation: dict[str, Any]


_METERS: dict[str, Callable[[Setting], Metric]] = {
    "accuracy": lambda at: Accuracy(**at.synchronisation),
    "f1": lambda at: MacroF1(at.classes, **at.synchronisation),
    "calibration_error": lambda at: CalibrationError(**at.synchronisation),
    "roc_auc": lambda at: RocArea(at.classes, at.count_samples(), **at.synchronisation),
    "mae": lambda at: MeanAbsoluteError(**at.synchronisation),
    "rmse": lambda at: RootMeanSquaredError(**at.synchronisation),
    "r2": lambda at: ExplainedVariance(**at.synchronisation),
    "bleu": lambda at: Bleu(**at.synchronisation),
    "rouge_l": lambda at: RougeL(**at.synchronisation),
}


def make_meters(names: tuple[str, ...], setting: Setting) -> dict[str, Metric]:
    """The metrics that are measured by answers; ``loss``, and ``perplexity`` which follows from it, are not among them."""
    return {name: _METERS[name](setting) for name in names if name in _METERS}
