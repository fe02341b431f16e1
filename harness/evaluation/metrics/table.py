"""Metrics by name: those of this room, classes of torchmetrics, and functions of the user's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch
import torchmetrics
from torch import Tensor
from torchmetrics import Metric

from harness.batches import IGNORED, Batch
from harness.errors import ConfigError, ForwardError, UserError, did_you_mean
from harness.evaluation import LabelledOutput, is_own_metric, labelled_outputs, shown_name
from harness.evaluation.answers import targets_in, widened
from harness.evaluation.metrics import Bleu, ErrorRate, ExplainedVariance, MeanAbsoluteError, RootMeanSquaredError, RougeL
from harness.evaluation.metrics.classification import (
    Accuracy,
    CalibrationError,
    MacroF1,
    MeanIou,
    QuestionF1,
    QuestionRocArea,
    RocArea,
)
from harness.evaluation.scores import Ranks
from harness.tasks import TaskSpec
from harness.tasks.axes import BATCH
from harness.tasks.calls import batch_as_declared
from harness.tasks.signature import Signature
from harness.user_code import import_named, raised

_ROOMS = ("classification", "regression", "segmentation", "image", "audio", "text", "retrieval")
"""Modules of torchmetrics in which a class is looked for."""


class OwnMeter(Protocol):
    """What measures a metric of a config's own."""

    def update(self, outputs: Mapping[str, Any], batch: Batch, rows: int) -> None:
        """Takes the first rows of a batch into account."""

    def compute(self) -> float | None:
        """The metric; a collective call."""


def make_own_meters(names: tuple[str, ...], task: TaskSpec, ranks: Ranks) -> dict[str, OwnMeter]:
    """What measures the metrics that are functions or classes of torchmetrics, by the name that results have.

    Raises:
        ConfigError: There is no such class or function, or the output has no labels to compare with.
    """
    found: dict[str, OwnMeter] = {}
    for name in filter(is_own_metric, names):
        found[shown_name(name)] = (
            FunctionMeter(name, task.signature, ranks) if ":" in name else _of_torchmetrics(name, task, ranks)
        )
    return found


class FunctionMeter:
    """A function of the user's, called with outputs and batch as dicts, in the declared order of axes; its mean over the rows.

    Args:
        source: Where it is, ``file.py:function``.
        signature: The task's.
        ranks: The processes that share the rows.
    """

    def __init__(self, source: str, signature: Signature, ranks: Ranks) -> None:
        self._signature = signature
        self._name = f"`metrics`: {source.rpartition('/')[2]}"
        self._ranks = ranks
        self._function: Callable[..., Any] = import_named(source, Path(), "metrics")
        if not callable(self._function):
            raise ConfigError(f"{self._name} is a {type(self._function).__name__}, expected a function of outputs and batch")
        self._total = 0.0
        self._rows = 0

    def update(self, outputs: Mapping[str, Any], batch: Batch, rows: int) -> None:
        """Takes the first rows of a batch into account.

        Raises:
            ForwardError: The function raised.
            ConfigError: It returned no number, nor one for each row.
        """
        try:
            found = self._function(outputs=self._declared(outputs), batch=batch_as_declared(batch, self._signature))
        except UserError:
            raise
        except Exception as error:
            raise ForwardError(f"{self._name} raised {raised(error)}") from error
        value = torch.as_tensor(found, dtype=torch.float64) if isinstance(found, (int, float)) else found
        if not isinstance(value, Tensor) or not (value.numel() == 1 or tuple(value.shape) == (rows,)):
            shown = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(found).__name__}"
            raise ConfigError(f"{self._name} returned {shown}, expected a number, or one for each row")
        self._total += float(value.double().mean()) * rows
        self._rows += rows

    def _declared(self, outputs: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs with their rows where forward has them."""
        places = {each.name: each.axes.index(BATCH) for each in self._signature.outputs if BATCH in each.axes}
        return {
            name: value.movedim(0, places[name]) if name in places and isinstance(value, Tensor) else value
            for name, value in outputs.items()
        }

    def compute(self) -> float | None:
        """The mean over the rows."""
        total, rows = (sum(column) for column in zip(*self._ranks.gather((self._total, self._rows)), strict=True))
        return total / rows if rows else None


class TorchmetricsMeter:
    """A class of torchmetrics, fed an output and its labels with the classes on the second axis.

    Args:
        metric: The metric.
        labelled: The output.
        name: Of the metric, for messages.
    """

    def __init__(self, metric: Any, labelled: LabelledOutput, name: str) -> None:
        self._metric = metric
        self._labelled = labelled
        self._name = name

    def update(self, outputs: Mapping[str, Any], batch: Batch, rows: int) -> None:
        """Takes the first rows of a batch into account.

        Raises:
            ConfigError: The class refuses them.
        """
        each = self._labelled
        targets = targets_in(each, batch, lambda row: f"row {row + 1}")
        value = widened(outputs[each.output.name].detach())[: rows if each.has_rows else None]
        counts = targets != IGNORED
        if each.family == "classes":
            value = value.movedim(each.class_axis, 1) if value.ndim > 1 else value
        if not bool(counts.all()):
            value, targets = (value.movedim(1, -1) if each.family == "classes" else value)[counts], targets[counts]
        if each.family == "yes_or_no":
            value, targets = (value.sigmoid() if each.output.kind.name == "binary_scores" else value), targets.long()
        try:
            self._metric.update(value.cpu(), targets.to(value.dtype if each.family == "numbers" else targets.dtype).cpu())
        except Exception as error:
            raise ConfigError(f"`metrics`: torchmetrics' {self._name} raised {raised(error)}") from error

    def compute(self) -> float | None:
        """The metric.

        Raises:
            ConfigError: It is no single number.
        """
        found = self._metric.compute()
        if not isinstance(found, Tensor) or found.numel() != 1:
            raise ConfigError(f"`metrics`: torchmetrics' {self._name} gives no single number, as a metric must")
        return float(found)


def _of_torchmetrics(name: str, task: TaskSpec, ranks: Ranks) -> TorchmetricsMeter:
    outputs = labelled_outputs(task.signature)
    prefix, _, class_name = name.rpartition(".")
    labelled = next((each for each in outputs if each.prefix == (f"{prefix}." if prefix else "")), None)
    if labelled is None:
        there = [each.output.name for each in outputs]
        raise ConfigError(
            f"`metrics`: {name!r}: no output {prefix or 'with labels'!r}.{did_you_mean(prefix, there)} There is {', '.join(there)}"
        )
    cls = _find_class(class_name)
    arguments = _arguments(cls, class_name, labelled) | ranks.synchronisation
    try:
        return TorchmetricsMeter(cls(**arguments), labelled, class_name)
    except Exception as error:
        raise ConfigError(
            f"`metrics`: torchmetrics' {class_name} cannot be made for `{labelled.output.name}`: {raised(error)}"
        ) from error


def _find_class(name: str) -> Any:
    rooms = [torchmetrics, *(import_module(f"torchmetrics.{room}") for room in _ROOMS)]
    found = next((getattr(room, name) for room in rooms if inspect.isclass(getattr(room, name, None))), None)
    if found is None:
        names = sorted({each for room in rooms for each in dir(room) if inspect.isclass(getattr(room, each, None))})
        raise ConfigError(f"`metrics`: torchmetrics has no class {name!r}.{did_you_mean(name, names)}")
    return found


def _arguments(cls: Any, name: str, labelled: LabelledOutput) -> dict[str, Any]:
    """The arguments of a metric that follow from the output."""
    # A class that makes one of several by its `task` says so in `__new__`.
    taken = set(
        inspect.signature(cls.__new__ if "task" in inspect.signature(cls.__new__).parameters else cls.__init__).parameters
    )
    classes = labelled.output.class_count
    tasks = {"classes": "multiclass", "yes_or_no": "multilabel" if labelled.columns > 1 else "binary"}
    known = {
        "task": tasks.get(labelled.family),
        "num_classes": classes,
        "num_labels": labelled.columns if labelled.columns > 1 else None,
    }
    return {key: value for key, value in known.items() if key in taken and value is not None}


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
