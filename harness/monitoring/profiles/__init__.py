"""Profiles of datasets, references and windows alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from harness.errors import ProfileError, ProfileMismatchError, did_you_mean
from harness.monitoring.features import FeatureCounter, Survey
from harness.monitoring.features.counts import FeatureCounts
from harness.monitoring.features.kinds import Column, kind_of
from harness.monitoring.features.values import Block, Values
from harness.monitoring.profiles.profile import SHARED_META, Profile, is_optional
from harness.monitoring.profiles.sources import DEFAULT_READING, Options, Reading, Replay, Source, source_of

if TYPE_CHECKING:
    from torch import nn

    from harness.adapters import Adapter
    from harness.tasks import TaskSpec


BINS = 100
"""Of a numeric feature: what fits into 2 KB with edges in float64."""

_MOST_BINS = 160


def compute_dataset_profile(
    data: Any,
    task: TaskSpec | None = None,
    *,
    reference: Profile | None = None,
    model: nn.Module | None = None,
    adapter: Adapter | None = None,
    bins: int = BINS,
    categorical: Iterable[str] = (),
    without: Iterable[str] = (),
    reading: Reading = DEFAULT_READING,
) -> Profile:
    """The profile of a dataset: a reference, or with ``reference`` a window that can be compared with it.

    A reference is read twice, once to fix its scales and once to count; what was measured is kept in memory between where it is small. A
    window is read once. Memory does not depend on the number of rows.

    Args:
        data: A dataset, an ``EvalConfig`` or the path of a file of examples, with ``task``; or a table: columns by name, a data frame, Arrow
            data, a Parquet, Arrow or CSV file, an iterable of parts.
        task: What examples are for; ``None`` for a table.
        reference: The profile on whose scales the rows are counted.
        model: Whose outputs and embeddings are profiled too. Not on what it was trained on: it is too sure of that.
        adapter: How it is called; the task's own by default.
        bins: The most bins of a numeric feature, 2 to 160.
        categorical: Columns of a table that are levels, whatever they look like.
        without: Columns of a table that are no features.
        reading: How examples are read: the split, the training data whose tokenizer and classes are used, how many at once.

    Raises:
        ProfileError: There are no rows to make a reference of, or the data is of no kind that can be profiled.
        ProfileMismatchError: The rows are not of the reference's kind: another modality, vocabulary or tokenizer, or a missing column.
        DataError: The data is missing, unreadable, or does not fit the task.
    """
    options = Options(task, model, adapter, tuple(categorical), tuple(without), reading)
    return profile_of_source(source_of(data, options), reference, bins)


def profile_of_source(source: Source, reference: Profile | None, bins: int = BINS) -> Profile:
    """The profile of rows, wherever they come from; see ``compute_dataset_profile``.

    Args:
        source: The rows.
        reference: The profile on whose scales they are counted; ``None`` for a reference.
        bins: The most bins of a numeric feature of a reference.
    """
    return _reference(source, bins) if reference is None else _window(source, reference)


def profile_columns(
    columns: Mapping[str, Column], reference: Profile | None = None, *, categorical: Iterable[str] = ()
) -> Profile:
    """The profile of columns in memory: a reference, or with ``reference`` a window.

    Args:
        columns: Arrays ``[N]`` by name, or ``[N, D]`` for vectors.
        reference: The profile on whose scales the rows are counted.
        categorical: Columns that are levels, whatever they look like.

    Raises:
        ProfileError: There are no rows to make a reference of, or the columns are of different lengths.
        ProfileMismatchError: A column of the reference is missing.
    """
    return compute_dataset_profile(columns, reference=reference, categorical=categorical)


def _reference(source: Source, bins: int) -> Profile:
    if not 2 <= bins <= _MOST_BINS:
        raise ProfileError(f"`bins` must be 2 to {_MOST_BINS}, got {bins}")
    replay = Replay(source)
    scales = _scales(replay.first(), bins)
    rows, features = _counted(replay.second(_kinds(scales)), scales)
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return Profile.of(rows, features, {**source.meta, "created": created})


def _scales(blocks: Iterable[Block], bins: int) -> dict[str, FeatureCounts]:
    surveys: dict[str, Survey] = {}
    rows = 0
    for block in blocks:
        surveys = surveys or {name: kind_of(values).survey() for name, values in block.values.items()}
        rows += block.rows
        for name, survey in surveys.items():
            survey.add(_values(block, name, rows))
    if not rows:
        raise ProfileError("no rows: a reference needs one at least")
    if not surveys:
        raise ProfileError("the rows have no features to profile")
    return {name: survey.scale(bins) for name, survey in surveys.items()}


def _window(source: Source, reference: Profile) -> Profile:
    for key in SHARED_META:
        if source.meta[key] != reference.meta.get(key):
            raise ProfileMismatchError(
                f"the window does not fit the reference: `{key}` is {source.meta[key]!r}, the reference's is {reference.meta.get(key)!r}"
            )
    rows, features = _counted(source.blocks(_kinds(reference.features)), reference.features)
    return replace(reference.only(features), n=rows, features=features)


def _counted(blocks: Iterator[Block], scales: Mapping[str, FeatureCounts]) -> tuple[int, dict[str, FeatureCounts]]:
    """Rows, and the counts of every feature that they have."""
    counters: dict[str, FeatureCounter] | None = None
    rows = 0
    for block in blocks:
        if counters is None:
            counters = {name: kind_of(scales[name]).counter(scales[name]) for name in _present(scales, block)}
        rows += block.rows
        for name, counter in counters.items():
            counter.add(_values(block, name, rows))
    if counters is None:
        return 0, {name: scale.emptied() for name, scale in scales.items()}
    return rows, {name: counter.result() for name, counter in counters.items()}


def _values(block: Block, name: str, rows: int) -> Values:
    if name not in block.values:
        raise ProfileError(f"no {name!r} among the last {block.rows} of {rows} rows, though rows before have it")
    return block.counted(name)


def _present(scales: Mapping[str, FeatureCounts], block: Block) -> list[str]:
    """The features that rows have; they may lack labels and outputs, and nothing else.

    Raises:
        ProfileMismatchError: They lack something else.
    """
    lacking = [name for name in scales if name not in block.values and not is_optional(name)]
    if lacking:
        near = did_you_mean(lacking[0], [*block.values, *block.left_out])
        raise ProfileMismatchError(f"no {lacking[0]!r}, which the reference has.{near}")
    return [name for name in scales if name in block.values]


def _kinds(scales: Mapping[str, FeatureCounts]) -> dict[str, str]:
    return {name: scale.kind for name, scale in scales.items()}
