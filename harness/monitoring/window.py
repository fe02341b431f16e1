"""Rows of a dataset measured: their profile, what the model says of each, and what is right of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.data.dataset import Dataset
from harness.errors import DataError
from harness.monitoring.accuracy_estimate import RowMeasures, confidence_measures
from harness.monitoring.dependence import first_rows
from harness.monitoring.familiarity import WIDEST, Familiarity, has_vectors, in_batches, sampled, vectors_of
from harness.monitoring.features.values import Block, Ids, Numbers, name_of_id
from harness.monitoring.joint import MOST_ROWS, RowsKept
from harness.monitoring.profiles import BINS, Profile, is_optional, profile_of_source
from harness.monitoring.profiles.sources import META, Options, Reading, Source, source_of
from harness.monitoring.profiles.tables import cells, column_of
from harness.monitoring.row_sample import RowHashes
from harness.tasks import TaskSpec

if TYPE_CHECKING:
    from torch import nn

    from harness.adapters import Adapter


ALSO = "also"
"""What a profile keeps of the names of columns that its task does not read, in ``meta``."""

ROWS = "rows"
"""What a profile keeps of the hashes of its rows, in ``meta``."""

_ENTROPY, _CLASS, _CORRECT, LABEL = "output.entropy", "output.class", "score.correct", "label"


@dataclass(frozen=True)
class Window:
    """Rows of a dataset, measured.

    Attributes:
        profile: What is counted of them.
        entropy: Of the model's answer to each, in nats, float64 ``[N]``; ``None`` where there is no model, or a row has more than one answer.
        predicted: The class that it says, int64 ``[N]``; ``None`` as well.
        correct: Whether it is right, 0 or 1, float64 ``[N]``; ``None`` where there are no labels either.
        hashes: Of the inputs of the rows.
        labels: The classes of the rows that have a label; ``None`` as ``correct``.
        classes: Their names; empty where they are numbers.
    """

    profile: Profile
    entropy: NDArray[np.float64] | None
    predicted: NDArray[np.int64] | None
    correct: NDArray[np.float64] | None
    hashes: RowHashes
    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()

    @property
    def unlabelled(self) -> NDArray[np.bool_]:
        """Which rows have no label, of those that have an answer to be right or wrong, ``[N]``."""
        return np.ones(self.profile.n, np.bool_) if self.correct is None else np.isnan(self.correct)

    @property
    def lacks_labels(self) -> bool:
        """Whether a row has none, or there are no rows."""
        return not self.profile.n or bool(self.unlabelled.any())


def measure_window(
    data: Dataset,
    task: TaskSpec,
    *,
    reference: Profile | None = None,
    model: nn.Module | None = None,
    adapter: Adapter | None = None,
    batch_size: int = 32,
    also: Sequence[str] = (),
) -> Window:
    """Measures a dataset in one pass; two where it is to be a reference.

    Args:
        data: The dataset.
        task: What its rows are for.
        reference: The profile on whose scales they are counted; ``None`` for a reference.
        model: Whose outputs are measured too.
        adapter: How it is called.
        batch_size: Rows at once.
        also: Columns of a reference that are counted beside what its task reads; a window has those of its reference.

    Raises:
        ProfileMismatchError: The rows are not of the reference's kind.
        DataError: A row cannot be read.
        ForwardError: The model raised.
    """
    source = source_of(data, Options(task, model, adapter, reading=Reading(batch_size=batch_size)))
    names = (_ENTROPY, _CLASS, _CORRECT, LABEL) if model is not None and task.signature.has_one_answer else ()
    log = _RowLog(source, names)
    known = None if reference is None else without_also(reference)
    profile = profile_of_source(replace(source, blocks=log.blocks), known, BINS)
    columns = also if reference is None else reference.meta.get(ALSO, ())
    profile = _with_columns(profile, data, columns, reference) if columns else profile
    if reference is None:
        profile = Profile.of(profile.n, profile.features, {**profile.meta, ROWS: log.hashes.to_json()})
    entropy, said, labels = log.column(_ENTROPY), log.column(_CLASS), log.column(LABEL)
    return Window(
        profile,
        entropy,
        None if said is None else said.astype(np.int64),
        log.column(_CORRECT),
        log.hashes,
        None if labels is None else labels.astype(np.int64),
        data.origin.classes.names if data.origin.classes else (),
    )


def without_also(profile: Profile) -> Profile:
    """A profile of what its task reads, without the columns that are counted beside it."""
    names = profile.meta.get(ALSO, ())
    if not names:
        return profile
    features = {name: each for name, each in profile.features.items() if column_of(name, names) not in names}
    return Profile.of(profile.n, features, {key: value for key, value in profile.meta.items() if key != ALSO})


def _with_columns(profile: Profile, data: Dataset, names: Sequence[str], reference: Profile | None) -> Profile:
    """A profile with columns of the data that its task does not read; one that a window lacks is missing in each row.

    Raises:
        DataError: The reference has no such column, or the model reads it.
    """
    read = next((name for name in names if name in profile.features), None)
    if read is not None:
        raise DataError(f"`also`: the model reads `{read}`, so it is compared as it is: leave it out")
    columns = {}
    for name in names:
        try:
            columns[name] = cells(data.column(name))
        except DataError:
            if reference is None:
                raise
            columns[name] = np.full(profile.n, None, object)
    known = None
    if reference is not None:
        known = reference.only(name for name in reference.features if column_of(name, names) in names)
        known = Profile.of(known.n, known.features, META)
    part = profile_of_source(source_of(columns, Options()), known, BINS)
    meta = {**profile.meta, ALSO: list(names)} if reference is None else reference.meta
    return Profile.of(profile.n, {**profile.features, **part.features}, meta)


def input_columns(data: Dataset, task: TaskSpec, batch_size: int) -> Iterator[dict[str, NDArray[Any]]]:
    """What is measured of the inputs and is one number or one level a row, by feature, ``[B]`` each; some rows at a time."""
    for block in source_of(data, Options(task, reading=Reading(batch_size=batch_size))).blocks(None):
        columns: dict[str, NDArray[Any]] = {}
        for name, values in block.values.items():
            if isinstance(values, Numbers):
                columns[name] = values.values
            elif isinstance(values, Ids) and values.rows is None and not is_optional(name):
                columns[name] = np.array(
                    [name_of_id(id, values.names) if id >= 0 else None for id in values.ids.tolist()], object
                )
        yield columns


def kept_rows(data: Dataset, task: TaskSpec, batch_size: int) -> RowsKept:
    """Some rows, for those that are compared as a whole: their numbers where these are few, and otherwise what is measured of each."""
    if has_vectors(task):
        examples = sampled(data, MOST_ROWS)
        vectors = vectors_of(examples, task)
        if vectors.shape[1] <= WIDEST:
            names = data.origin.encoder.columns
            return RowsKept.of(
                names if len(names) == vectors.shape[1] else [f"{place}" for place in range(vectors.shape[1])], vectors
            )
    columns = first_rows(input_columns(data, task, batch_size), most=sys.maxsize)
    numbers = {name: column for name, column in columns.items() if column.dtype.kind == "f"}
    return RowsKept.of(tuple(numbers), np.stack(list(numbers.values()), axis=1) if numbers else np.zeros((0, 0)))


class _RowLog:
    """Keeps some numbers of every row as the blocks go by."""

    def __init__(self, source: Source, names: tuple[str, ...]) -> None:
        self._source = source
        self._names = names
        self._kept: dict[str, list[NDArray[np.float64]]] = {}
        self.hashes = RowHashes()

    def blocks(self, kinds: Mapping[str, str] | None) -> Iterator[Block]:
        """The source's blocks; the numbers kept are those of the last time through."""
        self._kept = {name: [] for name in self._names}
        self.hashes = RowHashes()
        for block in self._source.blocks(kinds):
            if block.hashes is not None:
                self.hashes.add(block.hashes)
            for name, kept in self._kept.items():
                values = block.values.get(name)
                if isinstance(values, Numbers):
                    kept.append(values.values)
                elif isinstance(values, Ids):
                    kept.append(values.ids.astype(np.float64))
            yield block

    def column(self, name: str) -> NDArray[np.float64] | None:
        """The numbers of a name, ``[N]``; ``None`` where rows have none."""
        kept = self._kept.get(name)
        return np.concatenate(kept) if kept else None


_ROWS = 1024


def measures_of(data: Dataset, window: Window, familiarity: Familiarity | None) -> RowMeasures | None:
    """What is known of rows without their labels; ``None`` where there is no model, or a row has more than one answer.

    Args:
        data: The rows; they are read once more where there is a familiarity, and up to 1,000 of them twice.
        window: What was measured of them.
        familiarity: How near rows are to training rows; ``None`` to go by the model's confidence.
    """
    if window.entropy is None or window.predicted is None:
        return None
    if familiarity is None:
        return RowMeasures(confidence_measures(window.entropy))
    task, said = data.origin.task, window.predicted

    def parts() -> Iterator[tuple[NDArray[np.float64], NDArray[np.int64]]]:
        start = 0
        for examples in in_batches(data, _ROWS):
            yield vectors_of(examples, task), said[start : start + len(examples)]
            start += len(examples)

    sample = sampled(data, MOST_ROWS)
    found = familiarity.of_window(parts(), vectors_of(sample, task) if sample else np.zeros((0, len(familiarity.centre))))
    return without_answer(found, window.entropy)


def unlabelled_measures(data: Dataset, window: Window, familiarity: Familiarity | None) -> RowMeasures | None:
    """As ``measures_of``, of the rows only that have no label; ``None`` as well where each has one."""
    found = measures_of(data, window, familiarity) if window.lacks_labels else None
    return None if found is None else replace(found, values=found.values[window.unlabelled])


def without_answer(measures: RowMeasures, entropy: NDArray[np.float64]) -> RowMeasures:
    """The same, with NaN for rows that the model says nothing of."""
    return replace(measures, values=np.where(np.isnan(entropy)[:, None], np.nan, measures.values))
