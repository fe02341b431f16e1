"""How sure a model is of each row of a window, by the measure that its reference was made with."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from harness.data.dataset import Dataset
from harness.errors import ConfigError
from harness.monitoring.performance_impact import OodScore, fit_ood_score
from harness.monitoring.window import Window, input_vectors
from harness.tasks import TaskSpec
from harness.tasks.axes import BATCH

_ROWS = 1024
_MOST_ROWS = 5000
"""Rows of the reference by which the measures are weighed."""


def ood_score_of(task: TaskSpec, training: Dataset, data: Dataset, window: Window) -> OodScore:
    """How familiar rows are to a model, from rows that it was trained on and rows that it was not.

    Args:
        task: What the model is for.
        training: What it was trained on, with labels.
        data: The reference, with labels.
        window: What was measured of it.

    Raises:
        ConfigError: The inputs are no numbers, or the reference has no model or no labels.
    """
    if not _has_vectors(task) or window.predicted is None or window.correct is None:
        raise ConfigError(
            "`--familiarity` needs images or a table with labels, and a classifier with weights; leave it out to use the model's confidence"
        )
    known = _first_vectors(training, task)
    key = task.signature.label_name(task.signature.main)
    labels = np.array([int(example[key]) for example in islice(iter(training), len(known))])
    rows = _first_vectors(data, task)
    usable = np.isfinite(window.correct[: len(rows)]) & np.isfinite(rows).all(axis=1)
    said, right = window.predicted[: len(rows)][usable], window.correct[: len(rows)][usable]
    return fit_ood_score(known, labels, rows[usable], said, right)


def confidence_of(data: Dataset, window: Window, ood_score: OodScore | None) -> NDArray[np.float64] | None:
    """How sure a model is of each row, float64 ``[N]``; ``None`` where there is no model, or a row has more than one answer.

    Args:
        data: The rows.
        window: What was measured of them.
        ood_score: Measures how far rows are from the training data; ``None`` to use the model's own confidence.
    """
    if ood_score is None or window.predicted is None:
        return window.confidence
    return _scores(ood_score, data, window.predicted)


def _has_vectors(task: TaskSpec) -> bool:
    """Whether the inputs are numbers of fixed sizes, and nothing else."""
    inputs = task.signature.inputs
    axes = {axis for each in inputs for axis in each.axes if isinstance(axis, str) and axis != BATCH}
    return all(each.holds_numbers for each in inputs) and all(len(task.signature.axes[axis].choices()) == 1 for axis in axes)


def _scores(ood_score: OodScore, data: Dataset, predicted: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float64]:
    found: list[NDArray[np.float64]] = []
    start = 0
    for vectors in input_vectors(data, data.origin.task, _ROWS):
        found.append(ood_score.scores(vectors, predicted[start : start + len(vectors)]))
        start += len(vectors)
    return np.concatenate(found)


def _first_vectors(data: Dataset, task: TaskSpec) -> NDArray[np.float64]:
    """Of at most 5,000 rows."""
    return np.concatenate(list(islice(input_vectors(data, task, _ROWS), -(-_MOST_ROWS // _ROWS))))[:_MOST_ROWS]
