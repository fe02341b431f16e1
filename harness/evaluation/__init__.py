"""How well a model does on a dataset: the task's metrics, and numbers for every sample.

Here: the outputs of a task that have labels, and what is known of each without torch: its answers, its positions, the names of its metrics.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from harness.errors import ConfigError, did_you_mean
from harness.tasks import TaskSpec
from harness.tasks.axes import BATCH, Size, rows_first
from harness.tasks.kinds import BinaryScores, ClassScores, CtcScores, Kind, Numbers, Probabilities, TokenScores
from harness.tasks.signature import Output, Signature

Family = Literal["classes", "yes_or_no", "numbers", "symbols"]
"""What an answer is: one of several classes, a yes or a no, a number, or a text of symbols."""

_OWN_LOSSES: dict[Family, tuple[str, ...]] = {
    "classes": ("cross_entropy", "log_loss"),
    "yes_or_no": ("bce", "log_loss"),
    "numbers": ("mse", "l1", "huber"),
    "symbols": ("ctc",),
}
"""The losses that follow from answers, each the mean over its labels."""


def family_of(kind: Kind) -> Family | None:
    """What the answers of a kind of output are; ``None`` for one that is not compared with labels."""
    if isinstance(kind, CtcScores):
        return "symbols"
    if isinstance(kind, ClassScores) or (isinstance(kind, Probabilities) and kind.classes is not None):
        return "classes"
    if isinstance(kind, (BinaryScores, Probabilities)):
        return "yes_or_no"
    return "numbers" if isinstance(kind, Numbers) else None


@dataclass(frozen=True)
class LabelledOutput:
    """An output whose labels follow from its kind."""

    signature: Signature
    output: Output
    family: Family

    @property
    def is_main(self) -> bool:
        """Whether it is the main output, whose metrics have no prefix."""
        return self.output is self.signature.main

    @property
    def prefix(self) -> str:
        """What the names of its metrics and scores begin with."""
        return "" if self.is_main else f"{self.output.name}."

    @property
    def labels(self) -> str:
        """The field of a batch that holds its labels."""
        return self.signature.label_name(self.output)

    @property
    def axes(self) -> tuple[Size, ...]:
        """Its axes, the rows first."""
        return tuple(self.output.axes[place] for place in rows_first(self.output.axes))

    @property
    def label_axes(self) -> tuple[Size, ...]:
        """The axes of its labels, the rows first."""
        axes = list(self.axes)
        if self.family == "classes":
            axes.pop(self.class_axis)
        return tuple(axes)

    @property
    def class_axis(self) -> int:
        """The place of the classes, counted from the end, with the rows first."""
        place = self.output.classes
        return -1 if place is None else place

    @property
    def has_rows(self) -> bool:
        """Whether it has an axis of rows; if not, a batch is one example."""
        return BATCH in self.output.axes

    @property
    def positions(self) -> tuple[Size, ...]:
        """The axes along which each row has answers; empty where it has one."""
        axes = tuple(axis for axis in self.label_axes if axis != BATCH)
        return () if self.family == "symbols" else axes

    @property
    def columns(self) -> int:
        """Of yes-or-no answers: how many different questions there are, as the labels of a row that may have several."""
        fixed = [axis for axis in self.positions if isinstance(axis, int) and axis > 1]
        return fixed[0] if self.family == "yes_or_no" and len(fixed) == 1 else 1

    @property
    def is_text(self) -> bool:
        """Whether it scores the tokens of a vocabulary."""
        return isinstance(self.output.kind, TokenScores)

    @property
    def writes_target(self) -> bool:
        """Whether it scores the next token of a target that the data gives."""
        causal = {axis.name for axis in self.signature.with_order("causal")}
        return self.is_text and bool(causal & set(self.axes)) and self.signature.next_of(self.output) is None

    @property
    def has_own_loss(self) -> bool:
        """Whether its loss is another than the answers' own."""
        return self.output.loss not in _OWN_LOSSES[self.family]

    @property
    def default_metrics(self) -> tuple[str, ...]:
        """What is measured of it beside the loss where nothing is chosen."""
        if self.family == "symbols":
            return ("error_rate",)
        if self.family == "numbers":
            return ("mae", "rmse", "r2")
        if self.family == "yes_or_no":
            return ("accuracy", "f1", "roc_auc")
        if self.is_text:
            return ("perplexity", "accuracy")
        if self.output.class_count is None:
            return ("accuracy",)
        if not self.positions:
            return ("accuracy", "f1", "calibration_error", "roc_auc")
        return ("accuracy", "f1", "mean_iou", "calibration_error") if self._is_spatial else ("accuracy", "f1")

    @property
    def more_metrics(self) -> tuple[str, ...]:
        """What is measured of it on request."""
        if self.writes_target:
            return ("bleu", "rouge_l")
        if self.family == "yes_or_no":
            return ("calibration_error",)
        if self.family != "classes" or self.is_text or self.output.class_count is None or not self.positions:
            return ()
        return ("roc_auc",) if self._is_spatial else ("calibration_error", "roc_auc")

    @property
    def score(self) -> str:
        """The name of what each row is scored by beside the loss."""
        if self.family == "numbers":
            return "squared_error"
        if self.family == "symbols":
            return "error_rate"
        return "accuracy" if self.positions else "correct"

    @property
    def _is_spatial(self) -> bool:
        return len(self.positions) >= 2


def labelled_outputs(signature: Signature) -> tuple[LabelledOutput, ...]:
    """The outputs whose labels follow from their kinds; those that are not trained have none."""
    known = ((output, family_of(output.kind)) for output in signature.outputs)
    return tuple(
        LabelledOutput(signature, output, family)
        for output, family in known
        if family is not None and output.loss and (family == "symbols" or signature.label_shape(output) is not None)
    )


def main_output(signature: Signature) -> LabelledOutput:
    """The main output.

    Raises:
        ValueError: Its kind has no labels.
    """
    family = family_of(signature.main.kind)
    if family is None:
        raise ValueError(f"`outputs.{signature.main.name}` of kind {signature.main.kind.name!r} has no labels")
    return LabelledOutput(signature, signature.main, family)


def has_own_loss(signature: Signature) -> bool:
    """Whether the loss of the task is another than the sum of what follows from the answers: a function, or what forward returns."""
    if signature.whole_loss or any(":" in each.loss for each in signature.outputs):
        return True
    return any(each.has_own_loss for each in labelled_outputs(signature) if each.output.weight)


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
