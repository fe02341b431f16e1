"""What a number means that an evaluation measures: over what it is a mean."""

from __future__ import annotations

from collections.abc import Iterable

from harness.tasks import TaskSpec

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
