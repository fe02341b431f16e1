"""Which metrics a task has, and over what they are means; the numbers are made elsewhere, so that names can be checked without torch."""

from __future__ import annotations

from collections.abc import Iterable

from harness.errors import ConfigError, did_you_mean
from harness.evaluation.labelled_outputs import labelled_outputs
from harness.tasks import TaskSpec


def default_metrics(task: TaskSpec) -> tuple[str, ...]:
    """What is measured where the config names no ``metrics``: the loss, and of each output with labels what its kind implies.

    Names of outputs beside the main one begin with the output's: ``value.mae``.
    """
    outputs = labelled_outputs(task.signature)
    names = ["loss", *(f"{each.output.name}.loss" for each in outputs if len(outputs) > 1)]
    return (*names, *(f"{each.prefix}{name}" for each in outputs for name in each.default_metrics))


def valid_metrics(task: TaskSpec) -> tuple[str, ...]:
    """The names of metrics that ``metrics`` may hold, beside torchmetrics' classes and functions."""
    more = (f"{each.prefix}{name}" for each in labelled_outputs(task.signature) for name in each.more_metrics)
    return (*default_metrics(task), *more)


def chosen_metrics(task: TaskSpec) -> tuple[str, ...]:
    """The metrics to measure: those that the config's ``metrics`` names, and always the loss; the task's default ones otherwise.

    Raises:
        ConfigError: The task has no metric of a name.
    """
    check_metrics(task, task.metrics, "metrics")
    return tuple(dict.fromkeys(("loss", *task.metrics))) if task.metrics else default_metrics(task)


def check_metrics(task: TaskSpec, names: Iterable[str], key: str) -> None:
    """Refuses names that the task has no metric of.

    Args:
        task: The task.
        names: The names; those of functions and of torchmetrics' classes are left to what loads them.
        key: The config key, for messages.

    Raises:
        ConfigError: There is no such metric.
    """
    valid = valid_metrics(task)
    own = {shown_name(name) for name in task.metrics if is_own_metric(name)}
    title = task.title if task.declared is None else "this task"
    others = ", a class of torchmetrics, or file.py:function" if task.declared is not None else ""
    for name in names:
        if name not in valid and name not in own and not is_own_metric(name):
            there = ", ".join((*valid, *sorted(own)))
            raise ConfigError(f"`{key}`: {title} has no metric {name!r}.{did_you_mean(name, valid)} It has {there}{others}")


def is_own_metric(name: str) -> bool:
    """Whether a metric is a function of the user's, ``file.py:function``, or a class of torchmetrics."""
    return ":" in name or name.rpartition(".")[2][:1].isupper()


def shown_name(name: str) -> str:
    """What a metric is called in results: a function by its name."""
    return name.rpartition(":")[2]


_OVER_TOKENS = ("loss", "accuracy", "f1")


def metric_definitions(task: TaskSpec, names: Iterable[str]) -> dict[str, str]:
    """What the metrics of a whole dataset are means over, by name; those of which there is nothing to say are left out."""
    said: dict[str, str] = {}
    for each in labelled_outputs(task.signature):
        what = "tokens" if task.is_text else "positions"
        over = (
            f"over all labelled {what} of the data; each {what[:-1]} counts once"
            if each.positions
            else "over all labelled rows of the data"
        )
        said |= {f"{each.prefix}{name}": over for name in _OVER_TOKENS}
        said[f"{each.prefix}perplexity"] = f"exp of the loss over all labelled {what}"
    return {name: said[name] for name in names if name in said}


def score_definitions(task: TaskSpec, names: Iterable[str]) -> dict[str, str]:
    """What the scores of single rows are, whose mean two models are compared by; by name."""
    if any(each.positions for each in labelled_outputs(task.signature)):
        what = "tokens" if task.is_text else "positions"
        said = f"mean over the rows of each row's own mean over its {what}; each row counts once, so that two models are compared row by row"
        return dict.fromkeys(names, said)
    return dict.fromkeys(names, "mean over the rows; each row counts once")
