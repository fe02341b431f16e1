"""The data that a model is monitored on."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from harness.config import EvalConfig
from harness.data.data_reference import DataReference
from harness.data.dataset import Dataset
from harness.data.encoding import Encoder
from harness.data.opening import open_dataset
from harness.errors import DataError
from harness.monitoring.known_encoding import KnownEncoding
from harness.tasks import TaskSpec
from harness.training.datasets import open_datasets


def open_window(
    task: TaskSpec,
    window: EvalConfig | None = None,
    train: EvalConfig | None = None,
    folder: Path = Path(),
    *,
    like: Encoder | None = None,
) -> Dataset:
    """Opens the data that ``eval`` of a config names, as production data comes: labels may be missing, numbers need not be finite.

    It is read with the tokenizer, the classes and the columns of the training data: of ``train``; or else as the reference was read; or else of
    the training split of the same place.

    Args:
        task: What the rows are for.
        window: The data; the task's built-in set by default.
        train: What the model was trained on.
        folder: The config's folder; paths are relative to it.
        like: How the reference was read.

    Raises:
        DataError: Something is missing, unreadable, or does not fit the task.
    """
    asked = window or EvalConfig()
    known = _encoder_of_training(asked, task, train, folder, like)
    return open_dataset(asked, task, folder, "validation", known, lenient=True)


def reference_encoder(task: TaskSpec, data: DataReference | None, known: KnownEncoding | None) -> Encoder | None:
    """How the rows of a reference were read; ``None`` where nobody knows.

    Args:
        task: What the rows are for.
        data: Where the reference's run says that its data is; its training data has the tokenizer.
        known: What is kept with the reference itself.
    """
    trained = None
    if data is not None:
        with suppress(DataError, OSError):  # it need not be at hand where the model is monitored
            trained = open_datasets(task, data.train, data.eval, data.folder).train.origin.encoder
    if known is None:
        return trained
    return Encoder(task, trained.tokenizer if trained else None, known.classes, known.columns)


def _encoder_of_training(
    window: EvalConfig, task: TaskSpec, train: EvalConfig | None, folder: Path, like: Encoder | None
) -> Encoder | None:
    if train is not None and (train.path or train.dataset_id):
        return open_dataset(train, task, folder, "train").origin.encoder
    if like is not None or window.path is None:
        return like
    with suppress(DataError):  # no training data there; what is wrong with the window itself is said when it is opened
        return open_dataset(EvalConfig(path=window.path), task, folder, "train", lenient=True).origin.encoder
    return None
