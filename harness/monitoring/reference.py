"""The reference that later data is compared with, as a run stores it; and the rows of a window and of a baseline."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, float64, nn, view_as_real

from harness.config import EvalConfig
from harness.data.columns import Classes
from harness.data.data_reference import DataReference, dataset_id, open_datasets
from harness.data.dataset import Dataset
from harness.data.encoding import Encoder
from harness.data.opening import open_dataset
from harness.errors import ExperimentError, UserError
from harness.experiments.database import ExperimentDB, log_profile_to_db
from harness.experiments.records import RunRef
from harness.monitoring.accuracy_estimate import AccuracyEstimator
from harness.monitoring.drift.location import ReferenceSlices
from harness.monitoring.familiarity import Familiarity
from harness.monitoring.joint import JOINT, RowsKept
from harness.monitoring.profiles import Profile, load_profile
from harness.monitoring.slices import SLICES
from harness.tasks import TaskSpec

ENCODING = "encoding"
"""The name under which the way the reference was read is stored beside its profile."""


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
        with suppress(UserError, OSError):  # it need not be at hand where the model is monitored
            trained = open_datasets(task, data.train, data.eval, data.folder).train.origin.encoder
    if known is None:
        return trained
    return Encoder(task, trained.tokenizer if trained else None, known.classes, known.columns)


def _encoder_of_training(
    window: EvalConfig, task: TaskSpec, train: EvalConfig | None, folder: Path, like: Encoder | None
) -> Encoder | None:
    if train is not None and train.is_named:
        return open_dataset(train.beside(window), task, folder, "train").origin.encoder
    if like is not None or not window.is_named or window.dataset_id:
        return like
    with suppress(UserError):  # no training data there; what is wrong with the window itself is said when it is opened
        return open_dataset(window.source(), task, folder, "train", lenient=True).origin.encoder
    return None


@dataclass(frozen=True)
class KnownEncoding:
    """The classes and the feature columns of a reference.

    Attributes:
        classes: ``None`` where the task has none.
        columns: Feature columns in order; empty where the features are no columns.
    """

    classes: Classes | None
    columns: tuple[str, ...]

    @classmethod
    def of(cls, data: Dataset) -> KnownEncoding:
        """How a dataset was read."""
        return cls(data.origin.classes, data.origin.encoder.columns)

    def to_json(self) -> dict[str, Any]:
        """The encoding as JSON values."""
        classes = self.classes
        return {"classes": classes and {"count": classes.count, "names": list(classes.names)}, "columns": list(self.columns)}

    @classmethod
    def from_json(cls, stored: Any) -> KnownEncoding | None:
        """The inverse of ``to_json``; ``None`` where something else is stored."""
        try:
            classes = stored["classes"]
            found = None if classes is None else Classes(int(classes["count"]), tuple(map(str, classes["names"])))
            return cls(found, tuple(map(str, stored["columns"])))
        except (KeyError, TypeError, ValueError):
            return None


@dataclass(frozen=True)
class BaselineRows:
    """The rows that a baseline was scored on, or why they are not at hand.

    Attributes:
        name: What the baseline's scores say of them, as ``dataset_id`` does.
        data: The rows; ``None`` where they are not at hand.
        is_window: Whether they are the rows that are monitored.
        lacking: Why they are not at hand, in words; empty where they are.
    """

    name: str
    data: Dataset | None
    is_window: bool = False
    lacking: str = ""

    @property
    def title(self) -> str:
        """The file and the part of it, or the built-in set: what a person calls it."""
        return self.data.origin.name if self.data is not None else self.name.rpartition(":")[0]


def find_baseline_rows(
    name: str, window: Dataset, reference: DataReference | None, task: TaskSpec, folder: Path = Path()
) -> BaselineRows:
    """Finds the rows that a baseline was scored on, by their content.

    Args:
        name: What its scores say of them.
        window: The rows that are monitored.
        reference: Where the baseline's run says that its data is.
        task: What the rows are for.
        folder: Where else relative paths may lead: the folder of the candidate's config.
    """
    if dataset_id(window) == name:
        return BaselineRows(name, window, is_window=True)
    if reference is None:
        return BaselineRows(name, None, lacking="its run does not say where they are")
    lacking: dict[str, None] = {}
    for opened in _ways(reference, task, folder):
        try:
            found = opened()
        except (UserError, OSError) as error:
            lacking[str(error)] = None
            continue
        if dataset_id(found) == name:
            return BaselineRows(name, found)
        lacking[f"{found.origin.name} has other rows now, or is read otherwise"] = None
    return BaselineRows(name, None, lacking=next(iter(lacking)))


def _ways(reference: DataReference, task: TaskSpec, folder: Path) -> Iterator[Callable[[], Dataset]]:
    """The rows as a training and as a monitoring opens them, where the run says and beside the candidate's config."""
    for place in dict.fromkeys((reference.folder, folder)):
        yield partial(_held_out, reference, task, place)
        yield partial(open_window, task, reference.eval, reference.train, place)


def _held_out(reference: DataReference, task: TaskSpec, folder: Path) -> Dataset:
    return open_datasets(task, reference.train, reference.eval, folder).held_out


_ESTIMATOR = "accuracy_estimator"
_FAMILIARITY = "familiarity"
_WEIGHTS = "weights"
_NUMBERS = 4096


def weights_of(model: nn.Module) -> str:
    """A hash of a model's weights: of the shape of each and some 4,000 of its numbers, which tell any two trainings apart."""
    content = hashlib.sha256()
    for name, tensor in (dict(model.named_parameters()) or model.state_dict()).items():  # buffers may change with each call
        if not isinstance(tensor, Tensor):
            continue
        content.update(f"{name}\0{tuple(tensor.shape)}\0".encode())
        with suppress(RuntimeError, TypeError, ValueError):  # what has no plain numbers, such as quantised weights
            flat = (view_as_real(tensor) if tensor.is_complex() else tensor).detach().reshape(-1)
            content.update(flat[:: max(1, flat.numel() // _NUMBERS)].to("cpu", float64).numpy().tobytes())
    return content.hexdigest()


@dataclass(frozen=True)
class Reference:
    """What later data is compared with.

    Attributes:
        profile: How the data was distributed.
        estimator: Estimates accuracy without labels; ``None`` where there was no model, were no labels, or a row has more than one answer.
        familiarity: How near rows are to the training rows, by which it estimates; ``None`` where it goes by the model's own confidence.
        encoding: How the data was read; ``None`` where that was not kept.
        slices: What is kept of its parts; ``None`` where none were named.
        rows: Some of its rows, by which windows are compared as a whole; ``None`` where that was not asked for.
        weights: A hash of those of the model that gave its outputs; ``None`` where there was no model, or an older version stored it.
    """

    profile: Profile
    estimator: AccuracyEstimator | None = None
    familiarity: Familiarity | None = None
    encoding: KnownEncoding | None = None
    slices: ReferenceSlices | None = None
    rows: RowsKept | None = None
    weights: str | None = None

    def store(self, db: ExperimentDB, run: RunRef) -> int:
        """Stores it with a run, in the place of an older one.

        Returns:
            The run's id: the ``reference_profile_id`` of a config.

        Raises:
            ExperimentError: There is no such run, or it cannot be stored.
        """
        parts = (
            (_ESTIMATOR, self.estimator),
            (_FAMILIARITY, self.familiarity),
            (ENCODING, self.encoding),
            (SLICES, self.slices),
            (JOINT, self.rows),
        )
        for name, part in parts:
            db.log_profile(run, None if part is None else part.to_json(), name)
        db.log_profile(run, self.weights, _WEIGHTS)
        return log_profile_to_db(db, run, self.profile.to_bytes())


def load_reference(db: ExperimentDB, run: RunRef) -> Reference:
    """The reference of a run.

    Args:
        db: The database.
        run: The run, by id, by its own name, or by a named reference such as ``"production"``.

    Raises:
        UnknownRunError: There is no such run; the nearest is named.
        ExperimentError: The run has no profile.
        ProfileError: What is stored is no profile, or a newer version stored it.
    """
    profile = load_profile(db, run)
    estimator, familiarity, slices, rows = (_stored(db, run, name) for name in (_ESTIMATOR, _FAMILIARITY, SLICES, JOINT))
    return Reference(
        profile,
        None if estimator is None else AccuracyEstimator.from_json(estimator),
        None if familiarity is None or estimator is None else Familiarity.from_json(familiarity),
        KnownEncoding.from_json(_stored(db, run, ENCODING)),
        None if slices is None else ReferenceSlices.from_json(slices),
        None if rows is None else RowsKept.from_json(rows),
        _stored(db, run, _WEIGHTS),
    )


def _stored(db: ExperimentDB, run: RunRef, name: str) -> Any:
    """What lies beside the profile; ``None`` where nothing does."""
    try:
        return db.get_profile(run, name)
    except ExperimentError:
        return None
