"""Tables without a model: ``modeltiers profile FILE``, ``modeltiers monitor FILE``, and what is found of their columns and rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import ProfileError, ProfileMismatchError, did_you_mean
from harness.evidence import Status
from harness.experiments.database import ExperimentDB, existing_database
from harness.experiments.records import RunRef
from harness.monitoring import DEFAULT_DRIFT_OPTIONS, DriftOptions
from harness.monitoring.drift import DriftReport, compare_profiles
from harness.monitoring.drift.listing import drift_table, summary_rows, summary_table
from harness.monitoring.features.counts import FeatureCounts, NumericCounts
from harness.monitoring.features.ranges import continues
from harness.monitoring.profiles import BINS, Profile, load_profile, profile_of_source
from harness.monitoring.profiles.sources import Options, source_of
from harness.monitoring.profiles.tables import TEXT_PARTS, column_groups
from harness.monitoring.row_sample import RowSample, lost_correlations
from harness.wording import Answer, counted, listed

TABLE = "table"
"""What a profile keeps of a table beside its counts, in ``meta``."""

DATABASE = "experiments.db"

_TELLING = 0.01
"""Rows tell whose they are where no more than this share of the reference is repetitions."""

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


def profile_of_table(
    data: Any, reference: Profile | None = None, *, categorical: Iterable[str] = (), without: Iterable[str] = ()
) -> Profile:
    """As ``compute_dataset_profile`` of a table, with what is kept of its rows: which columns go together, and hashes of some rows.

    Args:
        data: A file, columns by name, a data frame or Arrow data.
        reference: The profile that it is to be compared with.
        categorical: Columns that are levels, whatever they look like.
        without: Columns that are no features.
    """
    return _profiled(data, reference, tuple(categorical), tuple(without))[0]


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
        samples.append(RowSample(source))
        parts.append(profile_of_source(replace(source, blocks=samples[-1].blocks), known, BINS))
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


def compare_table(data: Any, reference: Profile, options: DriftOptions = DEFAULT_DRIFT_OPTIONS) -> TableReport:
    """A table against the profile of another: its columns, which of them go together, and its rows.

    Args:
        data: A file, columns by name, a data frame or Arrow data.
        reference: What ``profile_of_table`` gave of the reference.
        options: The allowed error, and how much drift matters.

    Raises:
        ProfileMismatchError: The reference is not that of a table, or the table has none of its columns.
    """
    kept = reference.meta.get(TABLE)
    if kept is None:
        raise ProfileMismatchError(
            "the reference is not that of a table: profile one by `modeltiers profile FILE`, or give the model's config by --config"
        )
    there = [name for _, names in column_groups(data) for name in names]
    if not there:
        raise ProfileError("the window has no rows")
    gone = [name for name in kept["columns"] if name not in there and name not in kept["without"]]
    new = [name for name in there if name not in kept["columns"]]
    compared = reference.only(name for name in reference.features if column_of(name, kept["columns"]) not in gone)
    if not compared.features:
        raise ProfileMismatchError(
            f"the table has none of the columns of the reference ({listed(kept['columns'])}): it has {listed(there)}"
        )
    current, sample = _profiled(data, compared)
    drift = compare_profiles(compared, current, options)
    found = [*_of_columns(gone, new), *_of_pairs(kept, sample), *([] if drift.same else _of_rows(kept, sample))]
    later = [name for name, each in compared.features.items() if _is_later(each, current.features[name])]
    notes = [
        *_notes(compared, kept),
        *([f"not compared, as time continues after the reference: {listed(later)}"] if later else []),
    ]
    return TableReport(drift, (compared, current), tuple(sorted(found, key=lambda one: -one.status.severity)), tuple(notes))


def _is_later(reference: FeatureCounts, current: FeatureCounts) -> bool:
    return isinstance(reference, NumericCounts) and isinstance(current, NumericCounts) and continues(reference, current)


def _parent(feature: str, kept: dict[str, Any]) -> str:
    return column_of(feature, kept["columns"])


def column_of(feature: str, columns: Sequence[str]) -> str:
    """The column that a feature is of: itself, or the one whose text or moment it is a part of."""
    return feature if feature in columns else feature.rpartition(".")[0]


def _of_columns(gone: list[str], new: list[str]) -> list[TableFinding]:
    found = []
    for name in gone:
        near = did_you_mean(name, new)
        found.append(TableFinding(Status.FAIL, "column_gone", f"the column `{name}` is gone.{near}".removesuffix(".")))
    if new:
        message = f"{counted(len(new), 'column')} that the reference does not have, not compared: {listed(new)}"
        found.append(TableFinding(Status.WARN, "column_new", message))
    return found


def _of_pairs(kept: dict[str, Any], sample: RowSample) -> list[TableFinding]:
    lost = [one for one in lost_correlations(kept, sample) if _parent(one.first, kept) != _parent(one.second, kept)]
    if not lost:
        return []
    more = f"; so do {counted(len(lost) - 1, 'other pair')}" if len(lost) > 1 else ""
    return [TableFinding(Status.FAIL, "correlation_lost", lost[0].message + more)]


def _of_rows(kept: dict[str, Any], sample: RowSample) -> list[TableFinding]:
    found = []
    if sample.repeats_more(kept):
        before = f"{kept['repeated']:.0%} in the reference"
        message = f"{sample.repeated:.0%} of the rows are repetitions of others ({before}): was a file sent twice?"
        found.append(TableFinding(Status.WARN, "rows_repeated", message))
    share = sample.share_of(kept["rows"])
    if kept["repeated"] < _TELLING and share > _OF_REFERENCE:
        message = f"about {share:.0%} of the rows are the reference's own, which hides drift of the others"
        found.append(TableFinding(Status.WARN, "rows_of_reference", message))
    return found


def _notes(reference: Profile, kept: dict[str, Any]) -> list[str]:
    texts = list(
        dict.fromkeys(
            name.rpartition(".")[0]
            for name in reference.features
            if name not in kept["columns"] and name.rpartition(".")[2] in TEXT_PARTS
        )
    )
    if not texts:
        return []
    parts = listed(list(TEXT_PARTS))
    return [
        f"cannot tell whether the values of {listed(texts)} drifted, as nearly every value is its own level: compared by {parts}"
    ]


def profile_file(
    path: Path,
    db_path: str | Path | None = None,
    *,
    name: str | None = None,
    categorical: Sequence[str] = (),
    without: Sequence[str] = (),
) -> Answer:
    """Profiles a file as a table, without a model.

    Args:
        path: The file.
        db_path: Where the profile is stored, if anywhere; ``experiments.db`` where a name is given.
        name: A name for it.
        categorical: Columns that are levels, whatever they look like.
        without: Columns that are no features.

    Raises:
        UserError: What keeps it from being profiled or stored, in one line.
    """
    profile = profile_of_table(path, categorical=categorical, without=without)
    run_id = None
    if name is not None or db_path is not None:
        with ExperimentDB(db_path or DATABASE) as db:
            with db.start_run(f"{path.stem}-profile", facts={"table": str(path.resolve())}) as run:
                run_id = run.id
            from harness.experiments.database import log_profile_to_db

            log_profile_to_db(db, run_id, profile.to_bytes())
            if name is not None:
                db.set_name(name, run_id)
    size = len(profile.to_bytes())
    data = {
        "status": "ok",
        "data": {"name": path.name, "path": str(path)},
        "rows": profile.n,
        "bytes": size,
        "features": summary_rows(profile),
        "reference_profile_id": run_id,
        "name": name,
    }
    lines = [f"{path.name}: {counted(profile.n, 'row')}, {counted(len(profile.features), 'feature')}, {size:,} bytes", ""]
    lines += [summary_table(profile), *(["", *notes] if (notes := _notes(profile, profile.meta[TABLE])) else [])]
    if run_id is not None:
        lines += ["", f"stored with run {run_id}: modeltiers monitor WINDOW --reference {json.dumps(name or run_id)}"]
    return Answer(data, "\n".join(lines))


def monitor_file(path: Path, reference: RunRef, db_path: str | Path | None = None, html: Path | None = None) -> Answer:
    """Compares a file with a reference, without a model.

    Args:
        path: The file.
        reference: The run whose profile it is compared with, by id or name; or another file.
        db_path: Where the reference is stored; ``experiments.db`` by default.
        html: Where a page that lists every feature is written, if anywhere.

    Raises:
        UserError: What keeps it from being compared, in one line.
    """
    report = compare_table(path, _reference(reference, db_path))
    found = {**report.to_json(), "data": {"name": path.name, "path": str(path)}, "reference": str(reference)}
    if html is not None:
        from harness.monitoring.drift.listing import DriftPage, Said, drawings_of

        said = [
            *(Said(each.status.value, each.message) for each in report.findings),
            *(Said("skipped", note) for note in report.notes),
        ]
        drawings = drawings_of(report.drift, *report.profiles)
        features = found["drift"]["features"]
        page = DriftPage(path.name, str(reference), report.status.value, said, features, drawings)
        page.write(html)
    return Answer(found, _text(report))


def _reference(reference: RunRef, db_path: str | Path | None) -> Profile:
    if isinstance(reference, str) and Path(reference).is_file() and Path(reference).suffix:
        return profile_of_table(Path(reference))
    hint = ": name a stored reference, or a file to compare with, by --reference"
    with existing_database(db_path or DATABASE, hint) as db:
        return load_profile(db, reference)


_MARKS = {Status.OK: "ok  ", Status.WARN: "warn", Status.FAIL: "FAIL"}


def _text(report: TableReport) -> str:
    drift = report.drift
    lines = [f"{_MARKS[drift.status]}  {drift.message}"]
    lines += [f"{_MARKS[each.status]}  {each.message}" for each in report.findings]
    lines += [f"      {note}" for note in report.notes]
    worst = [one for status in (Status.FAIL, Status.WARN) for one in drift.features if one.status is status][:_SHOWN]
    lines += ["", *(one.message.splitlines()[0] for one in worst)] if worst else []
    return "\n".join([*lines, "", drift_table(drift.to_json()["features"]), "", f"status: {report.status.value}"])


_SHOWN = 3
