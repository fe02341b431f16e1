"""The reference that later data is compared with: what a run stores, or earlier windows; and the rows of a window and of a baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from harness.config import EvalConfig
from harness.data.columns import Classes
from harness.data.data_reference import DataReference, dataset_id, open_datasets
from harness.data.dataset import Dataset
from harness.data.encoding import Encoder
from harness.data.opening import open_dataset
from harness.errors import ExperimentError, UserError
from harness.experiments.database import ExperimentDB, existing_database, log_profile_to_db
from harness.experiments.records import RunRef, WindowRecord
from harness.monitoring.accuracy_estimate import AccuracyEstimator
from harness.monitoring.drift.location import ReferenceSlices
from harness.monitoring.familiarity import Familiarity
from harness.monitoring.features.counts import CategoricalCounts
from harness.monitoring.joint import JOINT, RowsKept
from harness.monitoring.profiles import Profile, load_profile
from harness.monitoring.slices import SLICES
from harness.tasks import TaskSpec

ENCODING = "encoding"
"""The name under which the way the reference was read is stored beside its profile."""

Season = Literal["weekday", "hour", "weekday_and_hour"]


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
    """

    profile: Profile
    estimator: AccuracyEstimator | None = None
    familiarity: Familiarity | None = None
    encoding: KnownEncoding | None = None
    slices: ReferenceSlices | None = None
    rows: RowsKept | None = None

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
    )


def _stored(db: ExperimentDB, run: RunRef, name: str) -> Any:
    """What lies beside the profile; ``None`` where nothing does."""
    try:
        return db.get_profile(run, name)
    except ExperimentError:
        return None


@dataclass(frozen=True)
class EarlierWindows:
    """Which earlier windows are a reference in place of the stored one.

    Attributes:
        last: The most windows, the latest first.
        same: What they must have in common with the time of the window: the day of the week, the hour, or both.
    """

    last: int
    same: Season | None = None

    def chosen(self, windows: Sequence[WindowRecord], time: datetime) -> list[WindowRecord]:
        """The windows before a time that have what they must have in common, and did not fail."""
        before = [one for one in windows if one.time < time and one.status != "fail" and one.profile]
        return [one for one in before if self._season(one.time) == self._season(time)][-self.last :]

    def _season(self, time: datetime) -> tuple[int, ...]:
        local = time.astimezone()
        return {"weekday": (local.weekday(),), "hour": (local.hour,), "weekday_and_hour": (local.weekday(), local.hour)}.get(
            self.same or "", ()
        )

    @property
    def said(self) -> str:
        """``the same weekday``, or nothing."""
        return f" of the same {self.same.replace('_', ' ')}" if self.same else ""


@dataclass(frozen=True)
class Memory:
    """Where runs are stored, and which of them a model is compared with.

    Attributes:
        db: The database, its file or its URL; ``None`` for nowhere.
        baseline: The run whose scores the model's are compared with.
        reference: The run whose profile the data is compared with.
        run_name: The name of the run that is stored for the comparison.
        config: What is stored with it.
        window: Where the data is that is monitored, stored with it too; ``None`` where nobody could open it again.
        time: When the data is of, in seconds since 1970, UTC; ``None`` for now.
        earlier: Which earlier windows are the reference in place of its stored profile; ``None`` for none.
    """

    db: ExperimentDB | str | Path | None = None
    baseline: RunRef | None = None
    reference: RunRef | None = None
    run_name: str = "monitoring"
    config: Any = None
    window: DataReference | None = None
    time: float | None = None
    earlier: EarlierWindows | None = None

    def opened(self, purpose: str) -> Any:
        """The database, as a context; one of the caller's own stays open.

        Raises:
            ExperimentError: There is none.
        """
        if self.db is None:
            raise ExperimentError(f"`{purpose}` names a run, and there is no database to find it in: give `db_path`")
        return (
            nullcontext(self.db)
            if isinstance(self.db, ExperimentDB)
            else closing(existing_database(self.db, ": nothing is remembered there to be compared with"))
        )

    def before(self, key: str, *, profiles: bool = False) -> list[WindowRecord]:
        """The windows that were compared with the reference before the time of this one, by time; none without a reference.

        Args:
            key: Tells the rows of this one from others.
            profiles: Whether their profiles are read too.
        """
        if self.reference is None:
            return []
        with self.opened("reference_profile_id") as db:
            others = [one for one in db.get_windows(self.reference, self.run_name, profiles=profiles) if one.key != key]
        return [one for one in others if self.time is None or one.time.timestamp() < self.time]


def merged_profile(windows: Sequence[WindowRecord], reference: Profile) -> Profile | None:
    """The rows of windows together, on the scales of their reference; ``None`` where no window can be used.

    Counts on the same scales add up exactly. The levels that a reference saw once say nothing about windows.
    """
    found: Profile | None = None
    for profile in profiles_of(windows, reference):
        shared = [name for name in profile.features if found is None or name in found.features]
        one = profile.only(shared)
        found = one if found is None else found.only(shared).merge(one)
    return found


def profiles_of(windows: Sequence[WindowRecord], reference: Profile) -> Iterator[Profile]:
    """The profiles of windows that were counted on the scales of their reference."""
    for window in windows:
        profile = Profile.from_bytes(window.profile or b"")
        if profile.edges_id == reference.only(profile.features).edges_id:
            yield profile


def without_once(profile: Profile) -> Profile:
    """A profile that no longer says how many levels its reference saw once, which is not known of windows."""
    features = {
        name: replace(feature, once=None) if isinstance(feature, CategoricalCounts) else feature
        for name, feature in profile.features.items()
    }
    return Profile.of(profile.n, features, profile.meta)
