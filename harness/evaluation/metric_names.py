"""Which metrics a task has; the numbers themselves are made elsewhere, so that names can be checked without torch."""

from __future__ import annotations

from harness.errors import ConfigError, did_you_mean
from harness.tasks import TaskSpec, TaskType

_LANGUAGE = ("loss", "perplexity", "accuracy")
_CLASSES = ("loss", "accuracy", "f1", "calibration_error", "roc_auc")

DEFAULT_METRICS: dict[TaskType, tuple[str, ...]] = {
    TaskType.CAUSAL_LM: _LANGUAGE,
    TaskType.MASKED_LM: _LANGUAGE,
    TaskType.SEQUENCE_CLASSIFICATION: _CLASSES,
    TaskType.TOKEN_CLASSIFICATION: ("loss", "accuracy", "f1"),
    TaskType.SEQ2SEQ_LM: _LANGUAGE,
    TaskType.IMAGE_CLASSIFICATION: _CLASSES,
    TaskType.TABULAR_CLASSIFICATION: _CLASSES,
    TaskType.TABULAR_REGRESSION: ("loss", "mae", "rmse", "r2"),
}
"""What is measured where the config names no ``metrics``."""

_ON_REQUEST: dict[TaskType, tuple[str, ...]] = {TaskType.SEQ2SEQ_LM: ("bleu", "rouge_l")}


def valid_metrics(task_type: TaskType) -> tuple[str, ...]:
    """The names that ``metrics`` may hold."""
    return DEFAULT_METRICS[task_type] + _ON_REQUEST.get(task_type, ())


def chosen_metrics(task: TaskSpec) -> tuple[str, ...]:
    """The metrics to measure: those that the config's ``metrics`` names, and always the loss; the task's default ones otherwise.

    Raises:
        ConfigError: The task has no metric of a name.
    """
    valid = valid_metrics(task.task_type)
    for name in task.metrics:
        if name not in valid:
            raise ConfigError(
                f"`metrics`: {task.task_type.value} has no metric {name!r}.{did_you_mean(name, valid)} It has {', '.join(valid)}"
            )
    if not task.metrics:
        return DEFAULT_METRICS[task.task_type]
    return tuple(dict.fromkeys(("loss", *task.metrics)))
