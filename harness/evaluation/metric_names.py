"""Which metrics a task has, and over what they are means; the numbers are made elsewhere, so that names can be checked without torch."""

from __future__ import annotations

from collections.abc import Iterable

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
    TaskType.DECLARED: ("loss",),
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


_OVER_TOKENS = ("loss", "accuracy", "f1")


def metric_definitions(task: TaskSpec, names: Iterable[str]) -> dict[str, str]:
    """What the metrics of a whole dataset are means over, by name; those of which there is nothing to say are left out.

    Args:
        task: What the rows are for.
        names: The metrics.
    """
    if task.is_per_position:
        said = dict.fromkeys(_OVER_TOKENS, "over all labelled tokens of the data; each token counts once")
        said["perplexity"] = "exp of the loss over all labelled tokens"
    else:
        said = dict.fromkeys(_OVER_TOKENS, "over all labelled rows of the data")
    return {name: said[name] for name in names if name in said}


def score_definitions(task: TaskSpec, names: Iterable[str]) -> dict[str, str]:
    """What the scores of single rows are, whose mean two models are compared by; by name.

    Args:
        task: What the rows are for.
        names: The scores.
    """
    if task.is_per_position:
        said = "mean over the rows of each row's own mean over its tokens; each row counts once, so that two models are compared row by row"
        return dict.fromkeys(names, said)
    return dict.fromkeys(names, "mean over the rows; each row counts once")
