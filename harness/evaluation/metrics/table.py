"""Metrics by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torchmetrics import Metric

from harness.evaluation.labelled_outputs import LabelledOutput
from harness.evaluation.metrics.classification import Accuracy, CalibrationError, MacroF1, MeanIou, RocArea
from harness.evaluation.metrics.regression import ExplainedVariance, MeanAbsoluteError, RootMeanSquaredError
from harness.evaluation.metrics.sequences import Bleu, ErrorRate, RougeL
from harness.evaluation.metrics.yes_or_no import QuestionF1, QuestionRocArea

_UNKNOWN = 1 << 62
"""Samples, where their number depends on the sizes of rows: more than could be kept."""


@dataclass(frozen=True)
class Setting:
    """What a metric may need to know.

    Attributes:
        count_samples: How many rows there will be, of all processes; for a stream this may read through a file.
        synchronisation: Arguments of every metric, for processes that share the samples.
    """

    count_samples: Callable[[], int]
    synchronisation: dict[str, Any]


def _f1(labelled: LabelledOutput, at: Setting) -> Metric:
    if labelled.family == "yes_or_no":
        return QuestionF1(labelled.columns, **at.synchronisation)
    return MacroF1(labelled.output.class_count or 0, **at.synchronisation)


def _roc_auc(labelled: LabelledOutput, at: Setting) -> Metric:
    only_columns = len(labelled.positions) == (labelled.columns > 1)
    samples = at.count_samples() if labelled.has_rows and only_columns else _UNKNOWN
    if labelled.family == "yes_or_no":
        return QuestionRocArea(labelled.columns, samples, **at.synchronisation)
    return RocArea(labelled.output.class_count or 0, samples, **at.synchronisation)


_METERS: dict[str, Callable[[LabelledOutput, Setting], Metric]] = {
    "accuracy": lambda _, at: Accuracy(**at.synchronisation),
    "f1": _f1,
    "mean_iou": lambda labelled, at: MeanIou(labelled.output.class_count or 0, **at.synchronisation),
    "calibration_error": lambda _, at: CalibrationError(**at.synchronisation),
    "roc_auc": _roc_auc,
    "mae": lambda _, at: MeanAbsoluteError(**at.synchronisation),
    "rmse": lambda _, at: RootMeanSquaredError(**at.synchronisation),
    "r2": lambda _, at: ExplainedVariance(**at.synchronisation),
    "bleu": lambda _, at: Bleu(**at.synchronisation),
    "rouge_l": lambda _, at: RougeL(**at.synchronisation),
    "error_rate": lambda _, at: ErrorRate(**at.synchronisation),
}


def make_meters(names: tuple[str, ...], labelled: LabelledOutput, setting: Setting) -> dict[str, Metric]:
    """The metrics of an output that are measured by answers, by their names without its prefix.

    Args:
        names: The metrics that are asked for, of all outputs; the losses, and ``perplexity`` which follows from them, are not measured so.
        labelled: The output.
        setting: What they may need to know.
    """
    return {name: make(labelled, setting) for name, make in _METERS.items() if f"{labelled.prefix}{name}" in names}
