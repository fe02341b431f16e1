"""What ``modeltiers profile FILE`` and ``modeltiers monitor FILE`` do: as data for ``--json``, and as text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from harness.evidence import Status
from harness.experiments.database import ExperimentDB, existing_database, log_profile_to_db
from harness.experiments.records import RunRef
from harness.monitoring.drift.listing import DriftPage, Said, drawings_of, drift_table, summary_rows, summary_table
from harness.monitoring.measures import Measure
from harness.monitoring.profiles import Profile, load_profile
from harness.monitoring.spread import WindowSpread
from harness.monitoring.tables import (
    DEFAULT_TABLE_OPTIONS,
    TABLE,
    TableOptions,
    TableReport,
    compare_table,
    notes_of,
    profile_of_table,
)
from harness.wording import Answer, counted

DATABASE = "experiments.db"


def profile_file(
    path: Path, options: TableOptions = DEFAULT_TABLE_OPTIONS, db_path: str | Path | None = None, name: str | None = None
) -> Answer:
    """Profiles a file as a table, without a model.

    Args:
        path: The file.
        options: What the profile holds.
        db_path: Where the profile is stored, if anywhere; ``experiments.db`` where a name is given.
        name: A name for it.

    Raises:
        UserError: What keeps it from being profiled or stored, in one line.
    """
    profile = profile_of_table(path, options)
    spread = WindowSpread.of_profile(profile)
    run_id = None
    if name is not None or db_path is not None:
        with ExperimentDB(db_path or DATABASE) as db:
            with db.start_run(f"{path.stem}-profile", facts={"table": str(path.resolve())}) as run:
                run_id = run.id
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
    lines += [summary_table(profile), *(["", *notes] if (notes := notes_of(profile, profile.meta[TABLE])) else [])]
    if spread is not None:
        lines += ["", f"drift will be judged beside chance by how far {spread.name} differ"]
    if run_id is not None:
        lines += ["", f"stored with run {run_id}: modeltiers monitor WINDOW --reference {json.dumps(name or run_id)}"]
    return Answer(data, "\n".join(lines))


def monitor_file(
    path: Path,
    reference: RunRef,
    db_path: str | Path | None = None,
    html: Path | None = None,
    *,
    slices: Sequence[str] = (),
    measures: Sequence[str] = (),
) -> Answer:
    """Compares a file with a reference, without a model.

    Args:
        path: The file.
        reference: The run whose profile it is compared with, by id or name; or another file.
        db_path: Where the reference is stored; ``experiments.db`` by default.
        html: Where a page that lists every feature is written, if anywhere.
        slices: Columns whose values are parts, where the reference is a file; a stored one has its own.
        measures: What is measured beside the columns, as ``Measure.parse`` takes it.

    Raises:
        UserError: What keeps it from being compared, in one line.
    """
    known = [Measure.parse(one) for one in measures]
    report = compare_table(path, _reference(reference, db_path, slices, known), measures=known)
    found = {**report.to_json(), "data": {"name": path.name, "path": str(path)}, "reference": str(reference)}
    if html is not None:
        said = [
            *(Said(each.status.value, each.message) for each in report.findings),
            *(Said("skipped", note) for note in report.notes),
        ]
        drawings = drawings_of(report.drift, *report.profiles)
        features = found["drift"]["features"]
        page = DriftPage(path.name, str(reference), report.status.value, said, features, drawings)
        page.write(html)
    return Answer(found, _text(report))


def _reference(
    reference: RunRef, db_path: str | Path | None, slices: Sequence[str] = (), measures: Sequence[Measure] = ()
) -> Profile:
    if isinstance(reference, str) and Path(reference).is_file() and Path(reference).suffix:
        return profile_of_table(Path(reference), TableOptions(slices=slices, measures=measures))
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
