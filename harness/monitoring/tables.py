"""Tables without a model: their profile, and what is found of their columns, parts and rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from harness.errors import ProfileError, ProfileMismatchError, did_you_mean
from harness.evidence import Status
from harness.monitoring import DEFAULT_DRIFT_OPTIONS, DriftOptions
from harness.monitoring.drift import DriftReport, compare_profiles
from harness.monitoring.drift.location import drifted_slices
from harness.monitoring.drift.verdict import DriftFinding
from harness.monitoring.features.category_drift import MISSING
from harness.monitoring.features.counts import FeatureCounts, NumericCounts
from harness.monitoring.features.ranges import DATE, continues
from harness.monitoring.joint import JOINT, RowsKept, joint_drift
from harness.monitoring.measures import Measure, measured_table
from harness.monitoring.profiles import BINS, Profile, profile_of_source
from harness.monitoring.profiles.sources import Options, source_of
from harness.monitoring.profiles.tables import (
    ChangedTable,
    column_groups,
    column_of,
    first_unread,
    tables_of,
)
from harness.monitoring.profiles.texts import TEXT_PARTS
from harness.monitoring.profiles.windows import FEWEST_ROWS
from harness.monitoring.row_sample import CORRELATION, RowSample, lost_correlations
from harness.monitoring.slices import Cut
from harness.monitoring.spread import own_windows, spread_of_table, with_spread
from harness.wording import counted, listed

TABLE = "table"
"""What a profile keeps of a table beside its counts, in ``meta``."""

_SHOWN_OF_TEXT = 40

_OF_REFERENCE = 0.05
"""The share of rows that may be the reference's own, as those of rows with few distinct values are by chance."""


@dataclass(frozen=True)
class TableFinding:
    """What is wrong with a window that no single feature shows."""

    status: Status
    code: str
    message: str

    def to_json(self) -> dict[str, str]:
        """The finding as JSON values."""
        return {"status": self.status.value, "code": self.code, "message": self.message}


@dataclass(frozen=True)
class TableReport:
    """A table compared with its reference.

    Attributes:
        drift: How its columns differ.
        findings: What is found beside, the gravest first.
        notes: What cannot be told, and what was not compared.
        profiles: Of the reference and of the table, in the features that were compared.
    """

    drift: DriftReport
    profiles: tuple[Profile, Profile]
    findings: tuple[TableFinding, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> Status:
        """The worst of all."""
        return max((self.drift.status, *(each.status for each in self.findings)), key=lambda status: status.severity)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON-ready values."""
        return {
            "status": self.status.value,
            "findings": [each.to_json() for each in self.findings],
            "notes": list(self.notes),
            "drift": self.drift.to_json(),
        }


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """What the profile of a table holds.

    Attributes:
        categorical: Columns that are levels, whatever they look like.
        without: Columns that are no features.
        slices: Columns whose values are parts, which are profiled too.
        measures: What is measured of the rows beside their columns.
        joint: Whether the numbers of up to 1,000 rows are kept, of at most 100 columns, so that rows can be compared as a whole.
        windows: A column of dates or of names, by which the table is a row of windows that show how far sound ones differ:
            ``ordered``, or ``ordered:week``. By default the days or weeks of its only column of dates, where they are ten or more.
    """

    categorical: Sequence[str] = ()
    without: Sequence[str] = ()
    slices: Sequence[str] = ()
    measures: Sequence[Measure] = ()
    joint: bool = False
    windows: str | None = None


DEFAULT_TABLE_OPTIONS = TableOptions()


def profile_of_table(data: Any, options: TableOptions = DEFAULT_TABLE_OPTIONS) -> Profile:
    """As ``compute_dataset_profile`` of a table, with what is kept of its rows: which columns go together, and hashes of some rows.

    Args:
        data: A file, columns by name, a data frame or Arrow data.
        options: What the profile holds.
    """
    data_with, windows = measured_table(data, tuple(options.measures)), options.windows
    found, sample = _profiled(data_with, None, tuple(options.categorical), tuple(options.without))
    if options.joint:
        found = replace(found, meta={**found.meta, TABLE: {**found.meta[TABLE], JOINT: sample.rows_kept().to_json()}})
    asked = windows or (None if isinstance(data, Iterator) or hasattr(data, "read_next_batch") else own_windows(found))
    with nullcontext() if windows else suppress(ProfileError):  # what nobody asked for is no mistake
        spread = None if asked is None else spread_of_table(data_with, found, found.meta[TABLE], asked)
        found = found if spread is None else with_spread(found, spread)
    kept = {**found.meta[TABLE], "measures": [one.said for one in options.measures]}
    kept |= {"slices": _slices(data_with, tuple(options.slices), found)}
    return Profile.of(found.n, found.features, {**found.meta, TABLE: kept})


def _slices(data: Any, names: tuple[str, ...], reference: Profile) -> dict[str, Any]:
    """The parts of a reference: how each column was cut, and the profiles of the parts."""
    cuts = {}
    for name in names:
        values = [value for part in tables_of(data) for value in np.asarray(_slice_column(part, name)).tolist()]
        cuts[name] = Cut.of(values)
    profiles = _slice_profiles(data, cuts, reference)
    return {
        "cuts": {name: cut.to_json() for name, cut in cuts.items()},
        "profiles": {name: each.to_json() for name, each in profiles.items()},
    }


def _slice_column(part: Mapping[str, Any], name: str) -> Any:
    if name not in part:
        raise ProfileError(f"`slices`: no column {name!r}.{did_you_mean(name, part)}")
    return part[name]


def _slice_profiles(data: Any, cuts: Mapping[str, Cut], reference: Profile) -> dict[str, Profile]:
    """The parts of a table, on the scales of a profile of the whole."""
    found = {}
    for name, cut in cuts.items():
        values = {value for part in tables_of(data) for value in np.unique(cut.labels(np.asarray(part[name]).tolist())).tolist()}
        for value in sorted(values):
            rows = ChangedTable(data, partial(_rows_of, name=name, cut=cut, value=value))
            source = source_of(rows, Options())
            profile = profile_of_source(source, reference.only(each for each in reference.features if each != name), BINS)
            if profile.n >= FEWEST_ROWS:
                found[f"{name}={value}"] = profile
    return found


def _rows_of(part: Mapping[str, Any], name: str, cut: Cut, value: str) -> dict[str, Any]:
    chosen = cut.labels(np.asarray(part[name]).tolist()) == value
    return {each: np.asarray(column)[chosen] for each, column in part.items()}


def _profiled(
    data: Any, reference: Profile | None, categorical: tuple[str, ...] = (), without: tuple[str, ...] = ()
) -> tuple[Profile, RowSample]:
    """The profile of a table, read by groups of columns; and some rows of the first group."""
    groups = column_groups(data)
    columns = [name for _, names in groups for name in names]
    _check_there(columns, categorical=categorical, without=without)
    parts: list[Profile] = []
    samples: list[RowSample] = []
    for part, names in groups:
        known = reference and reference.only(name for name in reference.features if column_of(name, columns) in names)
        if set(names) <= set(without) or (known is not None and not known.features):
            continue
        own, other = (tuple(name for name in chosen if name in names) for chosen in (categorical, without))
        source = source_of(part, Options(categorical=own, without=other))
        samples.append(RowSample())
        parts.append(profile_of_source(samples[-1].of(source), known, BINS))
    if not parts:
        raise ProfileError("no column is left to profile")
    features = {name: feature for part in parts for name, feature in part.features.items()}
    meta = parts[0].meta if reference is None else reference.meta
    if reference is None:
        meta = {**meta, TABLE: {"columns": columns, "without": list(without), **samples[0].to_json()}}
    return Profile.of(parts[0].n, features, meta), samples[0]


def _check_there(columns: Sequence[str], **asked: Sequence[str]) -> None:
    for key, names in asked.items():
        unknown = next((name for name in names if name not in columns), None)
        if unknown is not None:
            raise ProfileError(f"`{key}`: no column {unknown!r}.{did_you_mean(unknown, columns)}")


def compare_table(
    data: Any, reference: Profile, *, measures: Iterable[Measure] = (), options: DriftOptions = DEFAULT_DRIFT_OPTIONS
) -> TableReport:
    """A table against the profile of another: its columns, which of them go together, its parts, and its rows.

    Args:
        data: A file, columns by name, a data frame or Arrow data.
        reference: What ``profile_of_table`` gave of the reference.
        measures: The functions by which the reference was measured; its rules are kept with it.
        options: The allowed error, and the least effects that matter.

    Raises:
        ProfileMismatchError: The reference is not that of a table, the table has none of its columns, or a function is missing.
    """
    kept = reference.meta.get(TABLE)
    if kept is None:
        raise ProfileMismatchError(
            "the reference is not that of a table: profile one by `modeltiers profile FILE`, or give the model's config by --config"
        )
    data = measured_table(data, _known_measures(kept, tuple(measures)))
    there = [name for _, names in column_groups(data) for name in names]
    if not there:
        raise ProfileError("the window has no rows")
    gone = [name for name in kept["columns"] if name not in there and name not in kept["without"]]
    new = [name for name in there if name not in kept["columns"]]
    compared = reference.only(name for name in reference.features if column_of(name, kept["columns"]) not in gone)
    if not compared.features:
        raise ProfileMismatchError(
            f"the table has none of the columns of the reference ({listed(kept['columns'])}): it has {listed(there)}; is its "
            "first line the header?"
        )
    current, sample = _profiled(data, compared)
    drift = compare_profiles(compared, current, options)
    found = [
        *_of_columns(gone, new),
        *_of_pairs(kept, sample, current, drift),
        *([] if drift.same else _of_rows(kept, sample)),
    ]
    found += [] if drift.same else [*_of_slices(data, there, kept, compared, drift), *_of_whole_rows(kept, sample, drift)]
    later = [name for name, each in compared.features.items() if _is_later(each, current.features[name])]
    notes = [
        *notes_of(compared, {**kept, "columns": [name for name in kept["columns"] if name not in gone]}),
        *([f"not compared, as time continues after the reference: {listed(later)}"] if later else []),
        *_of_unread(data, drift, current),
        *_of_spread(drift),
    ]
    return TableReport(drift, (compared, current), tuple(sorted(found, key=lambda one: -one.status.severity)), tuple(notes))


def _known_measures(kept: Mapping[str, Any], given: tuple[Measure, ...]) -> list[Measure]:
    """The rules that are kept with a reference, and the functions that were given again."""
    said = {one.said for one in given}
    known = [Measure.parse(one) for one in kept.get("measures", []) if one not in said and "~" in one]
    lacking = [one for one in kept.get("measures", []) if one not in said and "~" not in one]
    if lacking:
        raise ProfileMismatchError(
            f"the reference was measured by {listed(lacking)}, which is your code and is not run unasked: add --measure {lacking[0]}"
        )
    return [*known, *given]


def _of_slices(
    data: Any, there: Sequence[str], kept: Mapping[str, Any], reference: Profile, drift: DriftReport
) -> list[TableFinding]:
    """The part that drifted most surely; a part that is like the whole says nothing new and is one among the others all the same."""
    stored = kept.get("slices") or {"cuts": {}, "profiles": {}}
    cuts = {name: Cut.from_json(each) for name, each in stored["cuts"].items() if name in there}
    if not cuts:
        return []
    before = {name: Profile.from_json(each) for name, each in stored["profiles"].items()}
    drifted = drifted_slices(before, _slice_profiles(data, cuts, reference), DEFAULT_DRIFT_OPTIONS, drift.names(Status.FAIL))
    more = f"; so have {counted(len(drifted) - 1, 'other slice')}" if len(drifted) > 1 else ""
    return [TableFinding(Status.WARN, "slice_drifted", drifted[0].message + more)] if drifted else []


def _is_later(reference: FeatureCounts, current: FeatureCounts) -> bool:
    return isinstance(reference, NumericCounts) and isinstance(current, NumericCounts) and continues(reference, current)


def _of_unread(data: Any, drift: DriftReport, current: Profile) -> list[str]:
    """Of columns in which more is missing than before: what stands there that is no number, or no date."""
    names = {
        verdict.difference.feature
        for one in drift.features
        for verdict in one.verdicts
        if verdict.is_significant and verdict.difference.aspect == MISSING
    }
    first = next(tables_of(data), {}) if names else {}
    notes = []
    for name in [name for name in first if name in names]:
        feature = current.features[name]
        if not isinstance(feature, NumericCounts):
            continue
        text = first_unread(first[name], feature.unit == DATE)
        if text is not None:
            what = "dates" if feature.unit == DATE else "numbers"
            notes.append(f"texts of `{name}` that are no {what} count as missing, such as {text[:_SHOWN_OF_TEXT]!r}")
    return notes


def _of_spread(drift: DriftReport) -> list[str]:
    """By what drift was judged beside chance; that it was by chance only where something drifted."""
    first = [(one.feature, one.verdicts[0]) for one in drift.features]
    usual = [name for name, each in first if each.finding is DriftFinding.USUAL and each.can_tell]
    if drift.spread is None:
        hint = "and days or batches differ by more: name their column by --windows when the reference is profiled"
        return [f"judged by chance within the window only, {hint}"] if drift.status is Status.FAIL and not drift.same else []
    notes = [f"no further off than usual ({drift.spread.name}): {listed(usual)}"] if usual else []
    if any(verdict.status is Status.FAIL and verdict.usual is not None for one in drift.features for verdict in one.verdicts):
        notes.append(
            f"a season that {drift.spread.name} do not hold looks the same as drift: profile a whole year, or again when it turns"
        )
    return notes


def _parent(feature: str, kept: dict[str, Any]) -> str:
    return column_of(feature, kept["columns"])


def _of_columns(gone: list[str], new: list[str]) -> list[TableFinding]:
    found = []
    for name in gone:
        near = did_you_mean(name, new)
        found.append(TableFinding(Status.FAIL, "column_gone", f"the column `{name}` is gone.{near}".removesuffix(".")))
    if new:
        message = f"{counted(len(new), 'column')} that the reference does not have, not compared: {listed(new)}"
        found.append(TableFinding(Status.WARN, "column_new", message))
    return found


def _of_pairs(kept: dict[str, Any], sample: RowSample, current: Profile, drift: DriftReport) -> list[TableFinding]:
    """The correlation that moved most, of two columns that both have values."""
    empty = {name for name, each in current.features.items() if each.missing == each.n}
    usual = {} if drift.spread is None else drift.spread.of_aspect(CORRELATION)
    lost = [
        one
        for one in lost_correlations(kept, sample, usual, drift.alpha / drift.windows)
        if _parent(one.first, kept) != _parent(one.second, kept) and empty.isdisjoint((one.first, one.second))
    ]
    if not lost:
        return []
    more = f"; so do {counted(len(lost) - 1, 'other pair')}" if len(lost) > 1 else ""
    return [TableFinding(Status.FAIL, "correlation_lost", lost[0].message + more)]


def _of_rows(kept: dict[str, Any], sample: RowSample) -> list[TableFinding]:
    return [TableFinding(Status.WARN, code, message) for code, message in sample.hashes.findings(kept)]


def _of_whole_rows(kept: dict[str, Any], sample: RowSample, drift: DriftReport) -> list[TableFinding]:
    if JOINT not in kept:
        return []
    usual = drift.spread.of_rows if drift.spread else ()
    found = joint_drift(RowsKept.from_json(kept[JOINT]), sample.rows_kept(), drift.windows, *usual)
    return [TableFinding(Status.FAIL, "joint_drift", found.message)] if found is not None and found.is_found else []


def notes_of(reference: Profile, kept: dict[str, Any]) -> list[str]:
    """What cannot be told of a table, a sentence each."""
    texts = list(
        dict.fromkeys(
            name.rpartition(".")[0]
            for name in reference.features
            if name not in kept["columns"] and name.rpartition(".")[2] in TEXT_PARTS
        )
    )
    seen = {column_of(name, kept["columns"]) for name in reference.features}
    nested = [name for name in kept["columns"] if name not in seen and name not in kept["without"]]
    notes = [f"not looked at, as no list of numbers of one length, but nested: {listed(nested)}"] if nested else []
    if not texts:
        return notes
    parts = listed(list(TEXT_PARTS))
    return [
        *notes,
        f"cannot tell whether the values of {listed(texts)} drifted, as nearly every value is its own level: compared by {parts}",
    ]
