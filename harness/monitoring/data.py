"""The data that a model is monitored on."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from harness.config import EvalConfig
from harness.data.dataset import Dataset
from harness.data.opening import open_dataset
from harness.errors import DataError
from harness.tasks import TaskSpec


def open_window(
    task: TaskSpec, window: EvalConfig | None = None, train: EvalConfig | None = None, folder: Path = Path()
) -> Dataset:
    """Opens the data that ``eval`` of a config names, as production data comes: labels may be missing, numbers need not be finite.

    It is read with the tokenizer and the classes of the training data: of ``train``, or of the training split of the same place.

    Args:
        task: What the rows are for.
        window: The data; the task's built-in set by default.
        train: What the model was trained on.
        folder: The config's folder; paths are relative to it.

    Raises:
        DataError: Something is missing, unreadable, or does not fit the task.
    """
    asked = window or EvalConfig()
    return open_dataset(asked, task, folder, "validation", _training_data(asked, task, train, folder), lenient=True)


def _training_data(window: EvalConfig, task: TaskSpec, train: EvalConfig | None, folder: Path) -> Dataset | None:
    if train is not None and (train.path or train.dataset_id):
        return open_dataset(train, task, folder, "train")
    if window.path is None:
        return None
    with suppress(DataError):  # no training data there; what is wrong with the window itself is said when it is opened
        return open_dataset(EvalConfig(path=window.path), task, folder, "train", lenient=True)
    return None
